package recovery

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Exit codes of the restore_command, as PostgreSQL reads them.
const (
	fetched = 0
	absent  = 1
	// abort is above 125, so that recovery ends; and no signal's 128+n, which
	// PostgreSQL would take for a request to stop in silence.
	abort = 200
)

// fetchRecipe tells the restore_command where its maker listens.
type fetchRecipe struct {
	Socket string `json:"socket"`
}

// Fetch is the restore_command's part: it asks the maker that runs this
// recovery for a file of WAL and puts it in place of dest. It returns the exit
// code of the command, and what to say on standard error.
func Fetch(ctx context.Context, recipeFile, name, dest string) (int, error) {
	var recipe fetchRecipe
	text, err := os.ReadFile(recipeFile)
	if err == nil {
		err = json.Unmarshal(text, &recipe)
	}
	if err != nil {
		return abort, fmt.Errorf("recipe of the recovery: %w", err)
	}
	answer, err := ask(ctx, recipe.Socket, name)
	if err != nil {
		return abort, fmt.Errorf("the pg0 that runs this recovery does not answer: %w", err)
	}
	kind, rest, _ := strings.Cut(answer, " ")
	switch kind {
	case "absent":
		return absent, nil
	case "file":
		if err := place(rest, dest, strings.Contains(name, ".")); err != nil {
			return abort, err
		}
		return fetched, nil
	}
	return abort, errors.New(rest)
}

func ask(ctx context.Context, socket, name string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, name+"\n"); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("its answer was cut short: %w", err)
	}
	return strings.TrimSuffix(answer, "\n"), nil
}

// place gives PostgreSQL the file. A segment stays where it is, behind a link:
// it is only read, and copying it through the mount would take longer than
// replaying it. A history file is small, and stays in the image.
func place(file, dest string, history bool) error {
	if err := os.Remove(dest); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !history {
		return os.Symlink(file, dest)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(dest, text, 0o600)
}

// listen answers restore_commands until the listener is closed.
func (f *feeder) listen(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go f.serve(ctx, conn)
	}
}

func (f *feeder) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	name, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return // killed before it had asked
	}
	answer := f.answer(ctx, strings.TrimSuffix(name, "\n"))
	if _, err := io.WriteString(conn, answer+"\n"); err != nil {
		f.log.Debug("the restore_command has gone", "file", name, "error", err)
	}
}

// answer is "file PATH", "absent", or "stop REASON".
func (f *feeder) answer(ctx context.Context, name string) string {
	file, err := f.get(ctx, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "absent"
	case err != nil:
		f.refuse(err)
		return "stop " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return "file " + filepath.ToSlash(file)
}
