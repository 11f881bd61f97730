//go:build bench

package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	scale   = flag.Int("scale", 60, "scale of pgbench: 60 makes accounts of 770 MB and an index of 128 MB")
	rounds  = flag.Int("rounds", 5, "rounds, each of which measures both sides")
	seconds = flag.Int("seconds", 6, "length of one run of pgbench")
	lines   = flag.String("lines", ".", "regular expression of the lines to measure")
)

// A line is one row of the table. measure gives one value a round for both
// sides; where lower says so, less is better.
type line struct {
	name    string
	target  string // as the table shows it
	least   float64
	lower   bool // of the values: times, not rates
	unit    string
	measure func(*bed) (native, mounted []float64)
}

// A fact is a row that has no native side.
type fact struct {
	name, target string
	measure      func(*bed) string
}

// TestBench measures the lines that are asked for, one after the other, and
// prints them as a Markdown table.
func TestBench(t *testing.T) {
	chosen := regexp.MustCompile(*lines)
	b := &bed{TB: t}
	var table strings.Builder
	for _, l := range allLines {
		if chosen.MatchString(l.name) {
			native, mounted := l.measure(b)
			fmt.Fprintln(&table, l.row(native, mounted))
			t.Logf("%s: native %.4g, mounted %.4g %s", l.name, native, mounted, l.unit)
		}
	}
	for _, f := range allFacts {
		if chosen.MatchString(f.name) {
			fmt.Fprintf(&table, "| %s | | %s | | | %s |\n", f.name, f.measure(b), f.target)
		}
	}
	fmt.Printf("\n%s\n\n| line | native | pg0 | ratio | spread | target |\n|---|---|---|---|---|---|\n%s\n", machine(t), table.String())
}

// row compares medians; the spread is that of the ratios of the rounds.
func (l line) row(native, mounted []float64) string {
	ratios := make([]float64, len(native))
	for i := range native {
		ratios[i] = l.ratio(native[i], mounted[i])
	}
	verdict := ""
	if r := l.ratio(median(native), median(mounted)); l.least > 0 && r < l.least {
		verdict = " (missed)"
	}
	return fmt.Sprintf("| %s | %s | %s | %.2f | %.2f to %.2f | %s%s |", l.name, l.value(native), l.value(mounted),
		l.ratio(median(native), median(mounted)), slices.Min(ratios), slices.Max(ratios), l.target, verdict)
}

func (l line) value(samples []float64) string {
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", median(samples), l.unit))
}

// ratio is above 1 where the mount is the better.
func (l line) ratio(native, mounted float64) float64 {
	if l.lower {
		return native / mounted
	}
	return mounted / native
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// alternate measures both sides in every round, each first in turn.
func alternate(native, mounted func() float64) (ofNative, ofMounted []float64) {
	for round := range *rounds {
		if round%2 == 0 {
			ofNative = append(ofNative, native())
		}
		ofMounted = append(ofMounted, mounted())
		if round%2 == 1 {
			ofNative = append(ofNative, native())
		}
	}
	return ofNative, ofMounted
}

// took is the time of a function in seconds.
func took(f func()) float64 {
	began := time.Now()
	f()
	return time.Since(began).Seconds()
}

// machine says where the table was made.
func machine(t testing.TB) string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	out, err := exec.Command("/usr/lib/postgresql/15/bin/postgres", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, %s, %s, pgbench scale %d, %d rounds.", runtime.NumCPU(), cpu,
		unix.ByteSliceToString(name.Release[:]), strings.TrimSpace(string(out)), runtime.Version(), *scale, *rounds)
}
