// Package regress runs PostgreSQL's own regression suite on a mount and on a
// native directory, and adopts every table of the database that the suite
// leaves, of a backup and of the running server. make regress runs it; it is not part of make test, because it needs
// PostgreSQL's sources and some minutes.
package regress
