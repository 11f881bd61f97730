package live

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// TestEncrypt keeps connections to other machines from falling back to plain
// text.
func TestEncrypt(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for dsn, want := range map[string]struct {
		plain bool   // whether an unencrypted connection would be made
		mode  string // for a foreign server
	}{
		"host=db.example.com user=a":                                   {false, "require"},
		"host=/run/postgresql user=a":                                  {true, ""},
		"host=127.0.0.1 user=a":                                        {true, "prefer"},
		"host=db.example.com user=a sslmode=disable":                   {true, "disable"},
		"postgres://a@db.example.com/shop?sslmode=require":             {false, "require"},
		"postgres://a@db.example.com/shop?sslmode=prefer":              {true, "prefer"},
		"host=db.example.com sslmode = 'verify-full' user=a sslcert=x": {},
	} {
		s := Source{Name: "prod", DSN: dsn}
		config, err := s.config(context.Background())
		if strings.Contains(dsn, "sslcert") {
			if dsnValue(dsn, "sslmode") != "verify-full" || dsnValue(dsn, "sslcert") != "x" {
				t.Errorf("%s: %q %q", dsn, dsnValue(dsn, "sslmode"), dsnValue(dsn, "sslcert"))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		plain := config.TLSConfig == nil
		for _, f := range config.Fallbacks {
			plain = plain || f.TLSConfig == nil
		}
		p := &Production{Source: s, config: config}
		if got := p.sslMode(); plain != want.plain || got != want.mode {
			t.Errorf("%s: plain %v, mode %q; want %+v", dsn, plain, got, want)
		}
	}
}

// TestDSN reads each form of a DSN, and what libpq's files and environment add.
func TestDSN(t *testing.T) {
	dir := t.TempDir()
	services, passwords := filepath.Join(dir, "services"), filepath.Join(dir, "passwords")
	err := errors.Join(
		os.WriteFile(services, []byte("[shop]\nhost=db.example.com\nport=6000\ndbname=shop\nuser=keeper\nsslmode=verify-ca\nsslrootcert=system\n[plain]\nhost=db.example.com\nsslmode=disable\n"), 0o600),
		os.WriteFile(passwords, []byte("db.example.com:6000:shop:keeper:from the file\n*:*:*:other:of another\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", services)
	t.Setenv("PGPASSFILE", passwords)
	for dsn, want := range map[string]struct{ host, user, database, password, mode string }{
		"service=shop sslrootcert=''": {"db.example.com", "keeper", "shop", "from the file", "verify-ca"},
		"postgresql://keeper@db.example.com:6000/shop?sslmode=require&keepalives=1":     {"db.example.com", "keeper", "shop", "from the file", "require"},
		"postgres://keeper:own%20one@db.example.com/shop":                               {"db.example.com", "keeper", "shop", "own one", "require"},
		"host=/run/postgresql user = other dbname='shop' gssencmode=disable":            {"/run/postgresql", "other", "shop", "of another", ""},
		"service=plain user=x password='it\\'s' dbname=shop tcp_user_timeout=1000":      {"db.example.com", "x", "shop", "it's", "disable"},
		"postgresql://other@/shop?host=/run/postgresql&fallback_application_name=there": {"/run/postgresql", "other", "shop", "of another", ""},
	} {
		s := Source{Name: "prod", DSN: dsn}
		config, err := s.config(context.Background())
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		p := &Production{Source: s, config: config}
		got := []string{config.Host, config.User, config.Database, config.Password, p.sslMode()}
		if diff := cmp.Diff([]string{want.host, want.user, want.database, want.password, want.mode}, got); diff != "" {
			t.Errorf("%s: %s", dsn, diff)
		}
		for _, key := range append(idleKeywords, "gssencmode", "service") {
			if value, there := config.RuntimeParams[key]; there {
				t.Errorf("%s: %s = %s would be sent to the server", dsn, key, value)
			}
		}
	}
	for _, dsn := range []string{"service=nowhere", "host=a hostaddr=127.0.0.1", "host=a sslcrl=/x", "host=a gssencmode=require"} {
		if _, err := (Source{Name: "prod", DSN: dsn}).config(context.Background()); exit.Code(err) != exit.Usage {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// TestSecretsHidden looks for the password in errors about the dsn.
func TestSecretsHidden(t *testing.T) {
	const secret = "hunter2secret"
	for _, s := range []Source{
		{DSN: "host=h password=" + secret + " port=nonsense"},
		{DSN: "postgres://u:" + secret + "@h:port/x"},
		{DSN: "host=h password=" + secret + " sslmode=wrong"},
		{DSN: "host=h", PasswordCommand: "echo " + secret + "; exit 3"},
	} {
		_, err := s.config(context.Background())
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%+v: error %v", s, err)
		}
	}
}

func TestPasswordCommand(t *testing.T) {
	config, err := Source{DSN: "host=h password=old", PasswordCommand: "printf 'new one\\nx'"}.config(context.Background())
	if err != nil || config.Password != "new one" {
		t.Errorf("password %q, %v", config.Password, err)
	}
}

func TestReadLabel(t *testing.T) {
	s := stop{label: "START WAL LOCATION: A/2000028 (file 00000003000000000A000002)\nCHECKPOINT LOCATION: A/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: x\nLABEL: pg0\nSTART TIMELINE: 3\n"}
	if err := s.readLabel(); err != nil || s.start != 0xA02000028 || s.timeline != 3 {
		t.Errorf("%v %v %v", s.start, s.timeline, err)
	}
	if err := (&stop{label: "LABEL: x"}).readLabel(); err == nil {
		t.Error("a label without start is read")
	}
}

func TestRelationOf(t *testing.T) {
	got := map[string]string{}
	want := map[string]string{
		"base/5/16384": "base/5/16384", "base/5/16384_vm": "base/5/16384", "base/5/16384.12": "base/5/16384", "base/5/16384_fsm.1": "base/5/16384",
		"global/1262": "global/1262", "global/pg_control": "", "base/5/PG_VERSION": "", "pg_xact/0000": "", "base/5/t3_16384": "",
		"pg_tblspc/16400/PG_15_202209061/5/16401_init": "pg_tblspc/16400/PG_15_202209061/5/16401",
	}
	for name := range want {
		got[name] = relationOf(name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
