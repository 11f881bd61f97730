package live

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
