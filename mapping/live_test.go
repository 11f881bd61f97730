package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const liveMap = `version = 1
[sources.prod]
format = "live"
dsn = "service=prod"
pgdata = "data"
rate = "1.5MB/s"
connections = 4
password_command = "cat secret"
[points]
now = { source = "prod", at = "now" }
other = { source = "prod", at = "now" }
[base]
point = "now"
take = ["shop.public.a*"]
[[relation]]
name = "shop.sales.*"
from = "now"
except = ["shop.sales.x"]
[[relation]]
name = "*.public.y"
from = "other"
via = "fdw"
writable = true
[[relation]]
name = "shop.public.z"
from = "other"
via = "copy"
`

func TestParseLive(t *testing.T) {
	spec, err := Parse("/etc/maps/t.toml", []byte(liveMap))
	if err != nil {
		t.Fatal(err)
	}
	want := Source{
		Name: "prod", Line: 2, Format: "live", DSN: "service=prod", PGData: "/etc/maps/data", Rate: 3 << 19, Connections: 4,
		PasswordCommand: "cat secret",
	}
	if diff := cmp.Diff(want, spec.Sources["prod"]); diff != "" {
		t.Error(diff)
	}
	if !spec.IsLive("now") || spec.All("now") || !spec.Copies("now") || !spec.Copies("other") {
		t.Error("both points are copied in part")
	}
	for name, want := range map[[4]string]bool{
		{"now", "shop", "public", "a1"}: true, {"now", "shop", "public", "b"}: false, {"now", "shop", "sales", "b"}: true,
		{"now", "shop", "sales", "x"}: false, {"other", "shop", "public", "y"}: false, {"other", "shop", "public", "z"}: true,
		{"other", "shop", "public", "a1"}: false,
	} {
		if got := spec.Wants(name[0], name[1], name[2], name[3]); got != want {
			t.Errorf("%v is wanted: %v", name, got)
		}
	}
	if !spec.WantsDatabase("other", "shop") || spec.WantsDatabase("other", "idle") {
		t.Error("only databases whose files are needed are wanted")
	}
	fdw := &spec.Rules[1]
	if !fdw.Writable || !fdw.MatchesForeign("idle", "", "") || !fdw.MatchesForeign("idle", "public", "y") || fdw.MatchesForeign("idle", "public", "z") {
		t.Errorf("%+v", fdw)
	}
	if spec.Rules[0].MatchesForeign("shop", "sales", "b") {
		t.Error("what is copied is not foreign")
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"50MB/s": 50 << 20, "50 MB": 50 << 20, "1GB/s": 1 << 30, "100kB/s": 100 << 10, "7B/s": 7,
		"": 0, "50": 0, "MB/s": 0, "-1MB": 0, "0MB": 0, "NaNMB": 0, "infGB": 0, "50MB/h": 0,
	} {
		if got, err := parseRate(text); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
