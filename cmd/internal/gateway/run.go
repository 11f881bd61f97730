package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/recovery"
)

// A Runner runs pg0 itself: mounting and unmounting are commands of their own,
// so the proxy holds no images and does not die with a mount.
type Runner struct {
	MapFile  string
	StateDir string
	BinDir   string
}

// Mount mounts a point of the mapping file and starts its server.
func (r Runner) Mount(ctx context.Context, name, mountpoint string, say func(string)) error {
	args := []string{"mount", "--map", r.MapFile, "--point", name, "--start", "--json"}
	if r.BinDir != "" {
		args = append(args, "--pg-bindir", r.BinDir)
	}
	return r.run(ctx, append(args, mountpoint), func(line string) { say(progress(name, line)) })
}

// Umount takes a mount away with whatever uses it.
func (r Runner) Umount(ctx context.Context, mountpoint string) error {
	return r.run(ctx, []string{"umount", "--force", mountpoint}, func(string) {})
}

// run runs one command; what it ends with is its error.
func (r Runner) run(ctx context.Context, args []string, line func(string)) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(args, "--state-dir", r.StateDir)...)
	cmd.Args[0] = "pg0"
	cmd.Dir = "/"
	cmd.Stdout = io.Discard
	// Out of reach of Ctrl-C: the proxy takes its mounts away itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	last := ""
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "{") {
			line(lines.Text())
		} else {
			last = strings.TrimPrefix(lines.Text(), "pg0: ")
		}
	}
	err = cmd.Wait()
	if err != nil && last != "" {
		return errors.New(last)
	}
	return err
}

var stageWords = map[recovery.Stage]string{
	recovery.StageWait:   "waiting for another command that recovers it",
	recovery.StageMount:  "mounting the backup",
	recovery.StageReplay: "replaying WAL",
	recovery.StageAsk:    "reading definitions",
	recovery.StageStop:   "stopping the recovered server",
	recovery.StageSeal:   "keeping the image",
}

// progress puts a line of progress of pg0 mount into words.
func progress(name, line string) string {
	var report struct {
		Progress recovery.Progress `json:"progress"`
	}
	p := &report.Progress
	if json.Unmarshal([]byte(line), &report) != nil || stageWords[p.Stage] == "" {
		return "making point " + name + " ready"
	}
	text := fmt.Sprintf("point %s, backup %s: %s", name, p.Backup, stageWords[p.Stage])
	if p.Stage == recovery.StageReplay && p.Percent > 0 {
		text += fmt.Sprintf(", %.0f%%", p.Percent)
	}
	return text
}
