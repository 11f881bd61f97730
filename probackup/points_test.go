package probackup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

func points(t *testing.T, dir string) []pg0.PointInfo {
	t.Helper()
	c, err := Open(dir, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	infos, err := c.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

func TestPointsOfShop(t *testing.T) {
	infos := points(t, fixture.Shop(t))
	var ids []string
	for _, info := range infos {
		ids = append(ids, info.ID)
	}
	if diff := cmp.Diff(shopWeek, ids); diff != "" {
		t.Fatalf("ids (-want +got):\n%s", diff)
	}
	want := pg0.PointInfo{
		ID: "TELYC0", Parent: "TEK3O0", Chain: []string{"TELYC0", "TEK3O0", "TEI900"}, Mode: "PAGE", Status: "OK",
		SystemID: 7635943328547681869, Version: 15, Timeline: 1, StartLSN: 0x2800028, StopLSN: 0x29000B8,
		Checksums: true, BlockSize: 8192,
		StartTime: time.Date(2026, 5, 6, 9, 0, 0, 0, time.UTC), EndTime: time.Date(2026, 5, 6, 9, 0, 2, 0, time.UTC),
		RecoveryTime: time.Date(2026, 5, 6, 9, 0, 1, 0, time.UTC), RecoveryXID: 864,
		Size: 7302659, Bytes: 40548505,
	}
	got := infos[2]
	want.Digest = got.Digest
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("point (-want +got):\n%s", diff)
	}
	if opened := openPoint(t, fixture.Shop(t), "TELYC0", Options{}); opened.Digest != got.Digest || len(got.Digest) != 64 {
		t.Errorf("digest is %q when listed, %q when open", got.Digest, opened.Digest)
	}
}

// control writes a catalog of control files only.
func controls(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		replaceFile(t, filepath.Join(dir, "backups/one", name, controlName), []byte(text))
	}
	return dir
}

// controlText is a complete control file; lines are appended to it, and the last
// one of a key counts.
func controlText(start string, lines ...string) string {
	return "#Configuration\nbackup-mode = FULL\nstream = true\ncompress-alg = zlib\nblock-size = 8192\nxlog-block-size = 8192\n" +
		"checksum-version = 1\nprogram-version = 2.5.16\nserver-version = 15\ntimelineid = 1\nstart-lsn = 0/1000028\nstop-lsn = 0/1000100\n" +
		"status = OK\ncontent-crc = 1\nstart-time = '" + start + "'\n" + strings.Join(lines, "\n") + "\n"
}

func TestPointsAreTolerant(t *testing.T) {
	child := []string{"backup-mode = DELTA", "parent-backup-id = 'TEI900'"}
	dir := controls(t, map[string]string{
		"TEI900": controlText("2026-05-04 12:00:00+03", "note = 'it's the admin's # note'", "from-replica = true"),
		"copy":   controlText("2026-05-04 09:00:00+00"),
		"TEK3O0": controlText("2026-05-05 09:00:00", append(child, "timelineid = 2", "new_key = 'x'", "external-dirs = '/srv/b:/srv/a'")...),
		"TELYC0": controlText("2026-05-06 09:00:00+00", "status = SYMLINK", "symlink = TEI901"),
		"TENT00": "",
		"TENT01": "status OK\n",
		"TENT02": controlText("2026-05-07 09:00:02+00", append(child, "status = MERGING")...),
	})
	if err := os.MkdirAll(filepath.Join(dir, "backups/one/.hidden"), 0o755); err != nil {
		t.Fatal(err)
	}
	type brief struct {
		ID, Status, Note, Unusable string
		Chain                      []string
		Warnings                   []string
	}
	var got []brief
	for _, p := range points(t, dir) {
		got = append(got, brief{p.ID, p.Status, p.Note, p.Unusable, p.Chain, p.Warnings})
	}
	want := []brief{
		{"COPY", "", "", "", nil, nil},
		{"TEI900", "OK", "it's the admin's # note", "", []string{"TEI900"}, []string{"directory copy claims the same id and is ignored"}},
		{"TEK3O0", "OK", "", "", []string{"TEK3O0", "TEI900"}, []string{
			`backup.control has the unknown key "new-key"`, "external directories are left out: /srv/b, /srv/a",
		}},
		{"TELYC0", "SYMLINK", "", "status is SYMLINK and the backup that it stands for (TEI901) is missing", []string{"TELYC0"}, nil},
		{"TENT00", "UNKNOWN", "", "backup.control is damaged: it has no start-time", nil, nil},
		{"TENT01", "UNKNOWN", "", `backup.control is damaged: line 1 is no "key = value"`, nil, nil},
		{"TENT02", "MERGING", "", "status is MERGING: it is being merged into a newer backup; run pg_probackup merge again to finish that", []string{"TENT02", "TEI900"}, nil},
	}
	if diff := cmp.Diff(want[1:], got); diff != "" {
		t.Errorf("points (-want +got):\n%s", diff)
	}
}

// TestSymlinkStub has the state that a merge by pg_probackup 2.8 leaves.
func TestSymlinkStub(t *testing.T) {
	for _, names := range [][2]string{{"TEI900", "TEK3O0"}, {"TEK3O1", "TEK3O0"}} {
		dir := controls(t, map[string]string{
			names[0]: controlText("2026-05-05 09:00:00+00", "program-version = 2.8.2"),
			names[1]: controlText("2026-05-05 09:00:00+00", "program-version = 2.8.2", "status = SYMLINK", "symlink = TEK3O0"),
		})
		infos := points(t, dir)
		if len(infos) != 1 || infos[0].ID != "TEK3O0" || infos[0].Unusable != "" || infos[0].Status != "OK" {
			t.Errorf("points = %+v, want the full backup under the stub's id", infos)
		}
	}
}

func TestOpenCatalog(t *testing.T) {
	two := t.TempDir()
	for _, name := range []string{"backups/one", "backups/two"} {
		if err := os.MkdirAll(filepath.Join(two, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("one", filepath.Join(two, "backups/three")); err != nil {
		t.Fatal(err)
	}
	if names, err := Instances(two); err != nil || !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("instances = %v, %v", names, err)
	}
	for _, test := range []struct{ dir, instance, says string }{
		{two, "", "has 2 instances, choose one with --instance: one, two"},
		{two, "four", "it has: one, two"},
		{t.TempDir(), "", "is no pg_probackup catalog"},
		{filepath.Join(two, "none"), "", "no such file or directory"},
	} {
		if _, err := Open(test.dir, test.instance, Options{}); err == nil || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("open %s %q: error = %v, want one with %q", test.dir, test.instance, err, test.says)
		}
	}
	if _, err := Open(two, "four", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want one that says missing", err)
	}
	if _, err := Open(two, "two", Options{}); err != nil {
		t.Error(err)
	}
}

// TestPointsOfLargeCatalog lists many chains of 31 backups whose lists, large
// and missing here, are not read.
func TestPointsOfLargeCatalog(t *testing.T) {
	files := map[string]string{}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 310 {
		at := start.Add(time.Duration(i) * time.Hour)
		lines := []string{}
		if i%31 > 0 {
			lines = []string{"backup-mode = PAGE", "parent-backup-id = '" + formatID(at.Add(-time.Hour)) + "'"}
		}
		files[formatID(at)] = controlText(at.Format("2006-01-02 15:04:05+00"), lines...)
	}
	infos := points(t, controls(t, files))
	if len(infos) != 310 {
		t.Fatalf("%d points, want 310", len(infos))
	}
	for i, info := range infos {
		if len(info.Chain) != i%31+1 || info.Unusable != "" {
			t.Errorf("point %d: chain %v, unusable %q", i, info.Chain, info.Unusable)
		}
	}
}

func TestUnquote(t *testing.T) {
	for text, want := range map[string]string{
		`plain # comment`:     "plain",
		`'quoted # text'`:     "quoted # text",
		`'it''s' # comment`:   "it's",
		`'it's' 'and' more'`:  "it's' 'and' more",
		`'never closed`:       "never closed",
		`'' `:                 "",
		`'a''b'c'`:            "a''b'c",
		`  spaced  `:          "spaced",
		`'don''t # stop' # x`: "don't # stop",
	} {
		if got := settingValue(text); got != want {
			t.Errorf("%s gives %q, want %q", text, got, want)
		}
	}
}

func TestIDs(t *testing.T) {
	start := time.Date(2026, 11, 23, 15, 2, 16, 0, time.UTC)
	if got := formatID(start); got != "TOYN3S" {
		t.Errorf("id = %s, want TOYN3S", got)
	}
	if got, ok := parseID("toyn3s"); !ok || !got.Equal(start) {
		t.Errorf("start = %v, want %v", got, start)
	}
	for text, want := range map[string]version{"2.5.16": 20516, "2.0.9": 20009, "": 0, "3": 30000, "2.8.2-ent": 20800} {
		if got := parseVersion(text); got != want {
			t.Errorf("version of %q = %d, want %d", text, got, want)
		}
	}
}
