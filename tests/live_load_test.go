//go:build liveload

package tests

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// number reads a setting of the measurement from the environment.
func number(t *testing.T, name string, byDefault int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(byDefault)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLiveLoad takes live points of a server under pgbench again and again, and
// compares its throughput while they are taken with that of the seconds
// between. LIVE_TAKES, LIVE_TRANSPORTS, LIVE_RATE, LIVE_SCALE and LIVE_TPS (0 is
// as many as it can) say how.
func TestLiveLoad(t *testing.T) {
	takes, scale, tps := number(t, "LIVE_TAKES", 20), number(t, "LIVE_SCALE", 10), number(t, "LIVE_TPS", 0)
	rate := cmp.Or(os.Getenv("LIVE_RATE"), "20MB/s")
	for _, transport := range strings.Fields(cmp.Or(os.Getenv("LIVE_TRANSPORTS"), strings.Join(transports, " "))) {
		t.Run(transport, func(t *testing.T) {
			c := pgtest.New(t, pgtest.Options{SegmentMB: 16, Settings: map[string]string{
				"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "1GB", "checkpoint_timeout": "5min",
			}})
			c.Start()
			c.Exec("postgres", "create database shop")
			c.Run("pgbench", "-i", "-q", "-s", fmt.Sprint(scale), "shop")
			spec := writeSpec(t, liveSource(c, transport, fmt.Sprintf("rate = %q", rate)), `[points]
prod = { source = "prod", at = "now" }
[base]
point = "prod"
take = ["shop.public.pgbench_*"]
`)
			l := startLoad(t, c, tps)
			p := program.New(t)
			for n := range takes {
				l.round(t, p, spec, n)
			}
			l.end(t)
			fmt.Printf("live-load: %s, rate %s, %d takes: %s\n", transport, rate, takes, l.total)
			if lost := l.total.lost(); lost >= 0.15 {
				t.Errorf("%.1f %% of the throughput is lost", 100*lost)
			}
		})
	}
}

// quiet is how long pgbench runs alone before each take.
const quiet = 10 * time.Second

// A load is pgbench, and what it has said of each second.
type load struct {
	c      *pgtest.Cluster
	cmd    *exec.Cmd
	stderr bytes.Buffer
	total  phases

	mu      sync.Mutex
	seconds []second
	read    chan struct{} // closed at the end of its output
}

// A second of pgbench.
type second struct {
	end     time.Time
	tps     float64
	latency float64 // ms
}

func startLoad(t *testing.T, c *pgtest.Cluster, tps int) *load {
	t.Helper()
	args := []string{"-n", "-c", "8", "-j", "2", "-T", "3600", "-P", "1", "--progress-timestamp"}
	if tps > 0 {
		args = append(args, "-R", fmt.Sprint(tps))
	}
	l := &load{c: c, cmd: c.Command("pgbench", append(args, "shop")...), read: make(chan struct{})}
	l.cmd.SysProcAttr.Setsid = true // as on another machine, and as a server's clients are
	out, err := l.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			l.line(lines.Text())
		}
	}()
	return l
}

// line takes "progress: 1700000000.123 s, 812.0 tps, lat 9.8 ms stddev 3.1, ...".
func (l *load) line(text string) {
	var at, tps, latency float64
	if _, err := fmt.Sscanf(text, "progress: %f s, %f tps, lat %f ms", &at, &tps, &latency); err != nil {
		fmt.Fprintln(&l.stderr, text)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seconds = append(l.seconds, second{time.UnixMicro(int64(at * 1e6)), tps, latency})
}

// end stops pgbench, which must not have failed by then.
func (l *load) end(t *testing.T) {
	t.Helper()
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	<-l.read
	_ = l.cmd.Wait() // it was told to end
	for _, said := range []string{"ERROR", "FATAL", "aborted", "could not"} {
		if strings.Contains(l.stderr.String(), said) {
			t.Errorf("pgbench: %s", l.stderr.String())
			return
		}
	}
}

// between gives the mean of the seconds that lie between two times.
func (l *load) between(from, to time.Time) mean {
	l.mu.Lock()
	defer l.mu.Unlock()
	var m mean
	for _, s := range l.seconds {
		if begin := s.end.Add(-time.Second); !begin.Before(from) && !s.end.After(to) {
			m.add(mean{1, s.tps, s.latency})
		}
	}
	return m
}

// A mean is sums over seconds.
type mean struct{ seconds, tps, latency float64 }

func (m *mean) add(n mean) {
	m.seconds, m.tps, m.latency = m.seconds+n.seconds, m.tps+n.tps, m.latency+n.latency
}

func (m mean) String() string {
	return fmt.Sprintf("%.0f tps, %.1f ms (%.0f s)", m.tps/m.seconds, m.latency/m.seconds, m.seconds)
}

// phases are pgbench alone, beside the copying, and beside the making of the
// image.
type phases struct{ alone, copying, making mean }

// lost is the share of throughput that pgbench lacks from the beginning of a
// take to its end.
func (p phases) lost() float64 {
	take := p.copying
	take.add(p.making)
	return 1 - take.tps/take.seconds/(p.alone.tps/p.alone.seconds)
}

func (p phases) String() string {
	return fmt.Sprintf("alone %s; copying %s; making the image %s; lost %.1f %%", p.alone, p.copying, p.making, 100*p.lost())
}

// round takes a point and checks it, pgbench running all the while.
func (l *load) round(t *testing.T, p *program.Program, spec string, n int) {
	t.Helper()
	l.c.Exec("postgres", "checkpoint") // a take begins with one too
	begin := time.Now()
	time.Sleep(quiet)
	taking := time.Now()
	mountpoint := p.Mountpoint()
	copied := takeTimed(t, p, "frankenstein", "--json", "--start", "--map", spec, mountpoint)
	taken := time.Now()
	time.Sleep(time.Second) // until pgbench has told of the last one
	one := phases{l.between(begin, taking), l.between(taking, copied), l.between(copied, taken)}
	l.total.alone.add(one.alone)
	l.total.copying.add(one.copying)
	l.total.making.add(one.making)
	fmt.Printf("live-load: take %d: %.1f s, image %.1f s: %s\n", n+1, copied.Sub(taking).Seconds(), taken.Sub(copied).Seconds(), one)
	checkBalances(t, p, mountpoint)
	amcheckDatabase(t, p, mountpoint, "shop", "-t", "pgbench_*")
	p.Must("umount", mountpoint)
	p.Must("images", "prune")
}

// takeTimed runs pg0 and gives the time at which it had copied all.
func takeTimed(t *testing.T, p *program.Program, args ...string) (copied time.Time) {
	t.Helper()
	cmd := p.Command(context.Background(), args...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var line struct{ Progress struct{ Stage string } }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Progress.Stage == "mount" && copied.IsZero() {
			copied = time.Now()
		}
		_, _ = io.WriteString(&said, lines.Text()+"\n")
	}
	if err := cmd.Wait(); err != nil || copied.IsZero() {
		t.Fatalf("%v\n%s", err, said.String())
	}
	return copied
}

func checkBalances(t *testing.T, p *program.Program, mountpoint string) {
	t.Helper()
	var a, b, tl, h int64
	if err := p.Connect(mountpoint, "shop").QueryRow(context.Background(), balances).Scan(&a, &b, &tl, &h); err != nil {
		t.Fatal(err)
	}
	if a != b || a != tl || a != h {
		t.Errorf("balances %d %d %d %d", a, b, tl, h)
	}
}
