package fusefs_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

// childEnv holds the job of a child that serves a mount: a process must not use
// files below a mount of its own.
const childEnv = "PG0_TEST_SERVE"

// A job is what a child serves.
type job struct {
	Base, Layer, Temp, Dir string

	Limit    int64
	ReadOnly bool
	// Damage names a file of the base that cannot be read.
	Damage string

	cred *syscall.Credential // of the child
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := serve(text); err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", "; "))
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve mounts a store and obeys one command a line on standard input.
func serve(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	tree := filesuite.Tree(j.Base)
	if j.Damage != "" {
		tree = damaged{tree, j.Damage}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := cow.Open(tree, cow.Options{Dir: j.Layer, TempDir: j.Temp, Limit: j.Limit, ReadOnly: j.ReadOnly, Logger: log})
	if err != nil {
		return err
	}
	m, err := fusefs.Mount(j.Dir, s, fusefs.Options{FSName: "test", Logger: log})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if err := obey(s); err != nil {
		return err
	}
	return errors.Join(m.Unmount(), s.Close())
}

func obey(s *cow.Store) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		cmd, arg, _ := strings.Cut(in.Text(), " ")
		var err error
		switch cmd {
		case "quit":
			return nil
		case "seal":
			err = s.Seal(arg)
		case "usage":
			fmt.Println(s.Usage())
			continue
		}
		fmt.Println("done", err)
	}
	// The test is gone.
	return nil
}

// damaged is a tree in which one file gives pg0.ErrCorrupt.
type damaged struct {
	pg0.Tree
	name string
}

type damagedFile struct{ pg0.File }

func (damagedFile) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("backup TESTID: block 7: %w", pg0.ErrCorrupt)
}

// A child is a process that serves a mount.
type child struct {
	t    testing.TB
	job  job
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	log  *strings.Builder
	dead bool
}

// start serves a job in a child and returns when the mount is ready. The test
// ends it.
func start(t testing.TB, j job) *child {
	t.Helper()
	c, err := tryStart(t, j)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryStart(t testing.TB, j job) (*child, error) {
	t.Helper()
	if j.Dir == "" {
		j.Dir = t.TempDir()
	}
	if j.Temp == "" {
		j.Temp = t.TempDir()
	}
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if j.cred != nil {
		exe = publicCopy(t, exe)
	}
	c := &child{t: t, job: j, cmd: exec.Command(exe), log: &strings.Builder{}}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: j.cred}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c.cmd.Dir = "/"
	c.cmd.Stderr = c.log
	c.in, err = c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if line := c.line(); line != "ready" {
		c.cmd.Wait()
		return nil, errors.New(line)
	}
	t.Cleanup(c.stop)
	return c, nil
}

// publicCopy copies a program to where every user can run it.
func publicCopy(t testing.TB, exe string) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "child")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(name, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	return name
}

func (c *child) line() string {
	if !c.out.Scan() {
		return fmt.Sprintf("the child is gone: %v\n%s", c.out.Err(), c.log)
	}
	return c.out.Text()
}

// ask sends a command and returns the answer.
func (c *child) ask(cmd string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, cmd); err != nil {
		c.t.Fatal(err)
	}
	return c.line()
}

// stop unmounts in the child.
func (c *child) stop() {
	if c.dead {
		return
	}
	c.dead = true
	fmt.Fprintln(c.in, "quit")
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("the serving child: %v: %s\n%s", err, c.line(), c.log)
	}
	if mounted, err := fusefs.Mounted(c.job.Dir); err != nil || mounted {
		c.t.Errorf("%s is mounted still: %v", c.job.Dir, err)
		fusefs.Unmount(c.job.Dir)
	}
}

// kill ends the child like a crash and clears the mount.
func (c *child) kill() {
	c.t.Helper()
	c.die()
	c.clear()
}

// clear takes away a mount whose server is dead.
func (c *child) clear() {
	c.t.Helper()
	if err := fusefs.Unmount(c.job.Dir); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) die() {
	c.t.Helper()
	c.dead = true
	if err := c.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.cmd.Wait()
}

func (c *child) path(name string) string { return filepath.Join(c.job.Dir, name) }
