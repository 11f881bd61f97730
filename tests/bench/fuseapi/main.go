// Command fuseapi compares go-fuse's raw API, as package fusefs uses it over a
// cow.Store, with its node API over the same files. It mounts both, each in a
// child process, measures them in turn, and prints the medians as a Markdown
// table.
//
//	go run ./tests/bench/fuseapi [-rounds 5] [-mib 256]
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// apis are compared in this order.
var apis = []string{"raw", "node"}

func main() {
	rounds := flag.Int("rounds", 5, "rounds, each of which measures both")
	mib := flag.Int64("mib", 256, "length of the file that is read, in MiB")
	serve := flag.String("serve", "", "internal: serve this API")
	flag.Parse()
	var err error
	if *serve != "" {
		err = serveMount(*serve, flag.Arg(0), flag.Arg(1))
	} else {
		err = compare(*rounds, *mib<<20)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuseapi:", err)
		os.Exit(1)
	}
}

// A line is one thing to measure on a mount. It returns time per operation.
type line struct {
	name string
	run  func(dir string) (time.Duration, error)
}

const smallFiles = 2000

var lines = []line{
	{"sequential reads of 8 KiB, cold", sequential},
	{"random reads of 8 KiB, past the kernel's cache", random},
	{"reads of 128 KiB, past the kernel's cache", direct},
	{"open and close", openClose},
	{"first stat of a file", firstStat},
}

func compare(rounds int, size int64) error {
	dir, err := os.MkdirTemp("", "fuseapi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	base := filepath.Join(dir, "base")
	if err := makeBase(base, size); err != nil {
		return err
	}
	times := map[string][]time.Duration{}
	for range rounds {
		for _, api := range apis {
			if err := measure(api, base, filepath.Join(dir, "mnt"), times); err != nil {
				return err
			}
		}
	}
	fmt.Println("| line | raw | node | node / raw |\n|---|---|---|---|")
	for _, l := range lines {
		raw, node := median(times["raw "+l.name]), median(times["node "+l.name])
		fmt.Printf("| %s | %.1f µs | %.1f µs | %.2f |\n", l.name, micro(raw), micro(node), float64(node)/float64(raw))
	}
	return nil
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func makeBase(base string, size int64) error {
	if err := os.MkdirAll(filepath.Join(base, "small"), 0o700); err != nil {
		return err
	}
	for i := range smallFiles {
		if err := os.WriteFile(filepath.Join(base, "small", fmt.Sprint(i)), nil, 0o600); err != nil {
			return err
		}
	}
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < len(b); i += 512 {
		b[i] = byte(r.Uint32())
	}
	return os.WriteFile(filepath.Join(base, "big"), b, 0o600)
}

// measure mounts one API, runs all lines, and unmounts.
func measure(api, base, mnt string, times map[string][]time.Duration) error {
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "-serve", api, base, mnt)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		return errors.Join(fmt.Errorf("the server of the %s API: %w", api, err), cmd.Wait())
	}
	for _, l := range lines {
		d, runErr := l.run(mnt)
		if runErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", l.name, runErr))
			break
		}
		times[api+" "+l.name] = append(times[api+" "+l.name], d)
	}
	return errors.Join(err, stdin.Close(), cmd.Wait())
}

func sequential(dir string) (time.Duration, error) {
	f, err := os.Open(filepath.Join(dir, "big"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf, n := make([]byte, 8192), 0
	start := time.Now()
	for {
		k, err := f.Read(buf)
		if k == 0 {
			break
		}
		if err != nil {
			return 0, err
		}
		n++
	}
	return time.Since(start) / time.Duration(n), nil
}

func random(dir string) (time.Duration, error) { return readDirect(dir, 8192, 5000) }
func direct(dir string) (time.Duration, error) { return readDirect(dir, 128<<10, 2000) }

// readDirect reads at random places with O_DIRECT, so that every read is one
// request to the server.
func readDirect(dir string, size, n int) (time.Duration, error) {
	f, err := os.OpenFile(filepath.Join(dir, "big"), os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buf)
	r := rand.New(rand.NewPCG(2, 2))
	places := info.Size() / int64(size)
	start := time.Now()
	for range n {
		if _, err := f.ReadAt(buf, r.Int64N(places)*int64(size)); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / time.Duration(n), nil
}

func openClose(dir string) (time.Duration, error) {
	const n = 5000
	name := filepath.Join(dir, "small", "0")
	start := time.Now()
	for range n {
		fd, err := syscall.Open(name, syscall.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		if err := syscall.Close(fd); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / n, nil
}

func firstStat(dir string) (time.Duration, error) {
	start := time.Now()
	for i := 1; i < smallFiles; i++ {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(dir, "small", fmt.Sprint(i)), &st); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / (smallFiles - 1), nil
}
