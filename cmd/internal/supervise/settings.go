package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0/cmd/internal/pgserver"
)

// changeSettings gives settings in a configuration file other values: the line
// that sets one is replaced, a missing one is added at the end.
func changeSettings(name string, settings []pgserver.Setting) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed := changeLines(string(text), settings)
	if changed == string(text) {
		return nil
	}
	return replaceFile(name, changed)
}

func changeLines(text string, settings []pgserver.Setting) string {
	for _, s := range settings {
		line := fmt.Sprintf("%s = '%s'\n", s.Name, strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s.Value))
		var out strings.Builder
		found := false
		for old := range strings.Lines(text) {
			if settingName(old) != s.Name {
				out.WriteString(old)
				continue
			}
			if !found {
				out.WriteString(line)
			}
			found = true
		}
		if !found {
			if out.Len() > 0 && !strings.HasSuffix(out.String(), "\n") {
				out.WriteByte('\n')
			}
			out.WriteString(line)
		}
		text = out.String()
	}
	return text
}

// settingName is the setting of a line of postgresql.conf in lower case, empty
// for other lines.
func settingName(line string) string {
	line = strings.TrimSpace(line)
	end := strings.IndexAny(line, " \t=#")
	if end < 0 {
		end = len(line)
	}
	return strings.ToLower(line[:end])
}

// tcpRule lets clients in over TCP, with a password that is never sent.
const tcpRule = "host all all all scram-sha-256 # pg0 --listen\n"

// allowTCP adds or removes the rule for clients over TCP.
func allowTCP(dataDir, listen string) error {
	name := filepath.Join(dataDir, "pg_hba.conf")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	rules := strings.ReplaceAll(string(text), tcpRule, "")
	if listen != "" {
		rules += tcpRule
	}
	if rules == string(text) {
		return nil
	}
	return replaceFile(name, rules)
}

func replaceFile(name, text string) error {
	tmp := name + ".pg0"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
