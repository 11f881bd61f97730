package serve

import (
	"fmt"
	"os/exec"
	"strings"
)

// Detach hides a mount at once, also one that is in use or whose server is
// dead. The kernel lets go of it when the last open file in it is closed.
func Detach(mountpoint string) error {
	cmd := exec.Command("fusermount3", "-u", "-z", "--", mountpoint)
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("detach %s: %w: %s", mountpoint, err, strings.TrimSpace(string(out)))
	}
	return nil
}
