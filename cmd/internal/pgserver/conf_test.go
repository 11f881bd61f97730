package pgserver

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestParseConf(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	tree := fstest.MapFS{
		"postgresql.conf": file("# comment\nTimeZone = 'Europe/Berlin' # why not\n  work_mem 4MB\nport=6000#comment\n\nnonsense\n= x\n" +
			"a.b = 'it''s \\'quoted\\' \\\\ \\101'\ninclude 'more.conf'\ninclude_if_exists = 'missing.conf'\ninclude '/etc/outside.conf'\ninclude '../outside.conf'\n" +
			"include_dir 'conf.d'\nunclosed = 'x\nempty = ''\n"),
		"more.conf":      file("port = 7000\ninclude 'more.conf'\n"),
		"conf.d/20.conf": file("x = 2\n"),
		"conf.d/10.conf": file("x = 1\ny = on"),
		"conf.d/.z.conf": file("z = 1\n"),
		"conf.d/readme":  file("z = 2\n"),
	}
	got, err := ParseConf(tree, "postgresql.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"timezone": "Europe/Berlin", "work_mem": "4MB", "port": "7000", "a.b": `it's 'quoted' \ A`, "x": "2", "y": "on", "empty": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := ParseConf(fstest.MapFS{}, "postgresql.conf"); err != nil || len(got) != 0 {
		t.Errorf("without a file: %v, %v", got, err)
	}
}

func TestParseSetting(t *testing.T) {
	for _, test := range []struct {
		text      string
		want      Setting
		protected bool
	}{
		{text: "work_mem=64MB", want: Setting{"work_mem", "64MB"}},
		{text: "Plan_Cache_Mode = auto", want: Setting{"plan_cache_mode", "auto"}},
		{text: "my.setting=", want: Setting{"my.setting", ""}},
		{text: "archive_command=rm", protected: true},
		{text: "SHARED_PRELOAD_LIBRARIES=x", protected: true},
		{text: "recovery_target_lsn=0/1", protected: true},
		{text: "include=/etc/passwd", protected: true},
		{text: "work_mem"},
		{text: "=x"},
		{text: "a b=x"},
		{text: "a=x\narchive_mode=on"},
	} {
		got, err := ParseSetting(test.text)
		if test.want != got || (err == nil) != (test.want.Name != "") || errors.Is(err, ErrProtected) != test.protected {
			t.Errorf("%q: %v, %v", test.text, got, err)
		}
	}
}

func TestText(t *testing.T) {
	config := Config{Major: 15, Memory: 16 << 30, SocketDir: `/tmp/it's "here", \ there`, Extra: []Setting{{"restore_command", "a 'b' %f"}}}
	text := config.text(nil)
	for _, line := range []string{
		`unix_socket_directories = '"/tmp/it''s ""here"", \\ there"'`,
		`restore_command = 'a ''b'' %f'`,
		"listen_addresses = ''", "shared_buffers = '512MB'", "fsync = 'off'", "max_connections = '100'",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	config.Durable = true
	if strings.Contains(config.text(nil), "fsync") {
		t.Error("fsync is touched although the layer is kept")
	}
	tree := fstest.MapFS{"c": {Data: []byte(text)}}
	back, err := ParseConf(tree, "c")
	if err != nil || back["restore_command"] != "a 'b' %f" {
		t.Errorf("read back: %v, %v", back, err)
	}
}

func TestNormalLocale(t *testing.T) {
	for in, want := range map[string]string{
		"en_US.UTF-8": "en_US.utf8", "C.UTF-8": "C.utf8", "de_DE@euro": "de_DE@euro", "de_DE.ISO-8859-15@euro": "de_DE.iso885915@euro",
	} {
		if got := normalLocale(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if !HasLocale("C") || !HasLocale("") || HasLocale("xx_XX.utf8") {
		t.Error("C and the empty locale are everywhere, xx_XX nowhere")
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add("a = 'b''c' # d\ninclude 'c'\n")
	f.Add("a='\\")
	f.Add("include ''\ninclude_dir 'c'")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := ParseConf(fstest.MapFS{"c": {Data: []byte(text)}}, "c")
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range settings {
			if strings.ContainsAny(value, "\n\r") {
				continue
			}
			key, again, ok := parseLine(name + " = " + quote(value))
			if !ok || key != name || again != value {
				t.Errorf("%q = %q reads back as %q = %q", name, value, key, again)
			}
		}
	})
}
