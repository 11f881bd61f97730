package reach

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fukanchik/pg0"
)

// A Memory is a directory that keeps what searches in the WAL have found: an
// archive is only added to, so a record once found stays where it is. The zero
// Memory keeps nothing. What cannot be read or written is searched for again.
type Memory string

// An Option changes how Choose works.
type Option func(*world)

// RememberIn has Choose take what earlier searches found from a directory, and
// add to it. A choice that was remembered is not examined.
func RememberIn(m Memory) Option { return func(w *world) { w.memory = m } }

// key names one search: the target, where it begins, which way it goes, and
// where it gives up.
func (y *way) searchKey(t Target, limit pg0.LSN) string {
	target, err := json.Marshal(t)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s %s\n%v\n%s\n%s", y.info.SystemID, y.info.ID, y.info.Digest, y.history, limit, target))
	return hex.EncodeToString(sum[:12])
}

func (m Memory) file(key string) string { return filepath.Join(string(m), key+".json") }

// recall gives the stop that a search has found before.
func (m Memory) recall(key string) (stop Stop, ok bool) {
	if m == "" || key == "" {
		return Stop{}, false
	}
	text, err := os.ReadFile(m.file(key))
	if err != nil || json.Unmarshal(text, &stop) != nil {
		return Stop{}, false
	}
	return stop, stop.Record != 0
}

// remember keeps a stop. Two commands may do so at once.
func (m Memory) remember(key string, stop Stop) {
	if m == "" || key == "" {
		return
	}
	text, err := json.Marshal(stop)
	if err != nil || os.MkdirAll(string(m), 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(string(m), "new-*")
	if err != nil {
		return
	}
	_, err = tmp.Write(text)
	if tmp.Close() != nil || err != nil || os.Rename(tmp.Name(), m.file(key)) != nil {
		_ = os.Remove(tmp.Name()) // it is of no use
	}
}
