package mapping

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the expected files anew")

const good = `version = 1
[sources.nightly]
format = "probackup"
path = "backups"
instance = "shop"
[sources.kept]
format = "probackup"
path = "/srv/other"

[points]
today  = { source = "nightly", at = "latest" }
monday = { source = "nightly", at = "tei900" }
noon   = { source = "nightly", at = 2026-05-06T14:00:02.5+02:00 }
"then" = { source = "nightly", at = "time:2026-05-06 14:00:02+0230" }
other  = { source = "nightly", at = "lsn:0/2C079A0", backup = "telyc0", inclusive = false, timeline = 3 }
end    = { source = "nightly", at = "immediate", timeline = "latest" }
tx     = { source = "nightly", at = "xid:771" }
mark   = { source = "nightly", at = "name:before sale" }
mine   = { source = "kept", at = "latest" }

[base]
point = "today"

[[relation]]
name = "shop.public.orders"
from = "monday"

[[relation]]
name = "Shop.public.\"Order Items\""
from = "noon"
as   = "noon.*"
except = ["shop.public.o?d*", "shop.*.\"a*\""]
indexes = "rebuild"
`

func TestParse(t *testing.T) {
	spec, err := Parse("/etc/maps/t.toml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Source{
		"nightly": {Name: "nightly", Line: 2, Format: "probackup", Path: "/etc/maps/backups", Instance: "shop"},
		"kept":    {Name: "kept", Line: 6, Format: "probackup", Path: "/srv/other"},
	}, spec.Sources); diff != "" {
		t.Error(diff)
	}
	point := func(name string, line int, at string, kind Kind) PointRef {
		return PointRef{Name: name, Line: line, Source: "nightly", At: at, Kind: kind, Inclusive: true, Timeline: "current"}
	}
	want := map[string]PointRef{}
	for _, p := range []PointRef{
		point("today", 11, "latest", KindLatest), point("monday", 12, "tei900", KindBackup),
		point("noon", 13, "2026-05-06T14:00:02.5+02:00", KindTime), point("then", 14, "time:2026-05-06 14:00:02+0230", KindTime),
		point("other", 15, "lsn:0/2C079A0", KindLSN), point("end", 16, "immediate", KindImmediate),
		point("tx", 17, "xid:771", KindXID), point("mark", 18, "name:before sale", KindName), point("mine", 19, "latest", KindLatest),
	} {
		switch p.Name {
		case "monday":
			p.Backup = "TEI900"
		case "noon":
			p.Time = time.Date(2026, 5, 6, 12, 0, 2, 5e8, time.UTC)
		case "then":
			p.Time = time.Date(2026, 5, 6, 11, 30, 2, 0, time.UTC)
		case "other":
			p.LSN, p.Backup, p.Inclusive, p.Timeline = 0x2C079A0, "TELYC0", false, "3"
		case "end":
			p.Timeline = "latest"
		case "tx":
			p.XID = 771
		case "mark":
			p.Target = "before sale"
		case "mine":
			p.Source = "kept"
		}
		want[p.Name] = p
	}
	if diff := cmp.Diff(want, spec.Points); diff != "" {
		t.Error(diff)
	}
	if spec.Base != "today" {
		t.Errorf("base is %q", spec.Base)
	}
	rules := []Rule{
		{Line: 24, From: "monday", Indexes: GraftIndexes},
		{Line: 28, From: "noon", As: &Target{Schema: "noon"}, Indexes: RebuildIndexes},
	}
	if diff := cmp.Diff(rules, spec.Rules, cmpopts.IgnoreFields(Rule{}, "Name", "Except")); diff != "" {
		t.Error(diff)
	}
	if r := spec.Rules[1]; !r.Name.Match("shop", "public", "Order Items") || r.Name.Match("shop", "public", "order items") || r.Name.Wild() {
		t.Errorf("%v does not follow SQL", r.Name)
	}
}

// TestParseErrors compares the errors of testdata/bad/*.toml with the .err
// files beside them.
func TestParseErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("testdata/bad has no files", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(filepath.Base(name), text)
		var one *FileError
		if !errors.As(err, &one) {
			t.Errorf("%s: error is %v, want a FileError", name, err)
			continue
		}
		golden := strings.TrimSuffix(name, ".toml") + ".err"
		if *update {
			if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, readErr := os.ReadFile(golden)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{`a.b.c`, []string{"a b c"}, []string{"a b cc", "A b c", "a b"}},
		{`A.B.C`, []string{"a b c"}, []string{"A B C"}},
		{`*.*.*`, []string{"a b c", "Ä ö x"}, nil},
		{`a.b.o*s`, []string{"a b os", "a b orders", "a b osss"}, []string{"a b order", "a b s"}},
		{`a.b.*a*b`, []string{"a b ab", "a b xaxabxb"}, []string{"a b ba", "a b abx"}},
		{`a.b.x?z`, []string{"a b xyz", "a b xüz"}, []string{"a b xz", "a b xyyz"}},
		{`a.b."x*"`, []string{"a b x*"}, []string{"a b xy"}},
		{`a.b."q""q"`, []string{`a b q"q`}, []string{`a b q""q`}},
		{`a."b.c".d`, []string{"a b.c d"}, nil},
		{`a.b."Ord"*`, []string{"a b Orders", "a b Ord"}, []string{"a b orders"}},
	} {
		p, err := parsePattern(c.pattern, ruleShape)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for _, s := range c.yes {
			if !p.Match(strings.Split(s, " ")...) {
				t.Errorf("%s does not match %s", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if p.Match(strings.Split(s, " ")...) {
				t.Errorf("%s matches %s", c.pattern, s)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("[[relation]]\nname='a\"'\nexcept=[\"x\"]\n[[relation.z]]\n\"\\u00e4\"=\"\"\"\n\"\"\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		spec, err := Parse("f.toml", text)
		var one *FileError
		if err != nil && !errors.As(err, &one) || (err == nil) == (spec == nil) {
			t.Fatalf("%v, %v", spec, err)
		}
		lines := strings.Count(string(text), "\n") + 1
		if one != nil && (one.Line < 0 || one.Line > lines) {
			t.Fatalf("line %d of %d", one.Line, lines)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add(`shop.*."a""b"`, "shop", "x", `a"b`)
	f.Fuzz(func(t *testing.T, text, a, b, c string) {
		p, err := parsePattern(text, ruleShape)
		if err != nil {
			return
		}
		p.Match(a, b, c)
		if q, err := parsePattern(quoteName(a, b, c), ruleShape); err == nil && !q.Match(a, b, c) {
			t.Fatalf("%s does not match itself", q)
		}
	})
}
