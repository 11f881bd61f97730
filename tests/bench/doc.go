// Package bench measures what a mount costs against the native directory that it
// stands for. make bench runs it; it is not part of make test, because it takes
// minutes and wants the machine for itself. docs/performance.md tells how to
// read what it prints.
package bench
