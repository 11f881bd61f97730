package probackup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fukanchik/pg0"
)

// A backup is one entry of the catalog: a directory and what its control file
// says. The control file is nil when it cannot be read; broken says why.
type backup struct {
	id       string
	dir      string // name of the directory, not always the id
	control  *control
	broken   string
	merged   string // id of the FULL backup whose directory, fully merged, holds this one
	warnings []string
}

// backupSet is the state of the catalog at one moment.
type backupSet struct {
	catalog *Catalog
	all     []*backup // by start time
	byID    map[string]*backup
}

// Status values of a backup.
const (
	statusOK      = "OK"
	statusDone    = "DONE"
	statusMerging = "MERGING"
	statusMerged  = "MERGED"
	statusSymlink = "SYMLINK"
	statusUnknown = "UNKNOWN"
)

// readBackups reads the control files of all backups.
func (c *Catalog) readBackups(ctx context.Context) (*backupSet, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	set := &backupSet{catalog: c, byID: map[string]*backup{}}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			set.add(readBackup(c.dir, e.Name()))
		}
	}
	set.resolveMerged()
	for _, b := range set.byID {
		set.all = append(set.all, b)
	}
	slices.SortFunc(set.all, func(a, b *backup) int {
		ta, _ := parseID(a.id)
		tb, _ := parseID(b.id)
		return cmp.Or(ta.Compare(tb), cmp.Compare(a.id, b.id))
	})
	return set, nil
}

// readBackup reads one control file. A backup without a usable one is listed
// under the name of its directory.
func readBackup(dir, name string) *backup {
	b := &backup{id: strings.ToUpper(name), dir: name}
	text, err := os.ReadFile(filepath.Join(dir, name, controlName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.broken = controlName + " is missing: the backup never finished or is being deleted"
		return b
	case err != nil:
		b.broken = fmt.Sprintf("%s cannot be read: %v", controlName, err)
		return b
	}
	c, err := parseControl(text)
	switch {
	case err != nil:
		b.broken = fmt.Sprintf("%s is damaged: %v", controlName, err)
	case c.startTime.IsZero():
		b.broken = fmt.Sprintf("%s is damaged: it has no start-time", controlName)
	default:
		b.control, b.id, b.warnings = c, formatID(c.startTime), c.warnings
		b.warnAboutName()
	}
	return b
}

func (b *backup) warnAboutName() {
	if !strings.EqualFold(b.id, b.dir) && b.control.status != statusMerged {
		b.warnings = append(b.warnings, fmt.Sprintf("its directory is named %s, not %s", b.dir, b.id))
	}
	if v := b.control.version; v >= version2_6 && v < version3 {
		b.warnings = append(b.warnings, fmt.Sprintf("it was written by pg_probackup %s, newer than 2.5, which pg0 knows best", b.control.program))
	}
	if n := len(b.control.externalDirs()); n > 0 {
		b.warnings = append(b.warnings, "external directories are left out: "+strings.Join(b.control.externalDirs(), ", "))
	}
}

// add enters a backup. Of two with one id the one whose directory bears that
// id is kept; a SYMLINK stub gives way to the backup that it stands for.
func (s *backupSet) add(b *backup) {
	old := s.byID[b.id]
	if old == nil {
		s.byID[b.id] = b
		return
	}
	keep, drop := old, b
	if old.isStub() || !b.isStub() && strings.EqualFold(b.dir, b.id) {
		keep, drop = b, old
	}
	if !drop.isStub() {
		keep.warnings = append(keep.warnings, fmt.Sprintf("directory %s claims the same id and is ignored", drop.dir))
	}
	s.byID[b.id] = keep
}

func (b *backup) isStub() bool {
	return b.control == nil || b.control.status == statusSymlink
}

// resolveMerged gives the id of a merge's destination to the FULL backup that
// has become it, also while what is left of the old directory still stands.
func (s *backupSet) resolveMerged() {
	var found []*backup
	for _, b := range s.byID {
		if b.control != nil && b.control.status == statusMerged && b.control.mergeDest != "" {
			found = append(found, b)
		}
	}
	for _, full := range found {
		start, ok := parseID(full.control.mergeDest)
		if !ok {
			continue
		}
		c := *full.control
		c.startTime, c.mode, c.parent = start, "FULL", ""
		dest := &backup{id: c.mergeDest, dir: full.dir, control: &c, merged: full.id, warnings: slices.Clone(full.warnings)}
		dest.warnings = append(dest.warnings, "its merge was not finished; pg_probackup merge -i "+dest.id+" completes it")
		s.byID[dest.id] = dest
	}
}

// find looks up a backup by its id in any case.
func (s *backupSet) find(id string) (*backup, error) {
	if b := s.byID[strings.ToUpper(id)]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("backup %s of instance %s: %w; pg0 points lists what there is", id, s.catalog.instance, fs.ErrNotExist)
}

// chain follows the parents of b to the FULL backup. It returns what it found
// also when the chain is broken; the reason then says where.
func (s *backupSet) chain(b *backup) (chain []*backup, reason string) {
	for {
		chain = append(chain, b)
		switch {
		case b.control == nil:
			return chain, fmt.Sprintf("chain is broken: backup %s cannot be read: %s", b.id, b.broken)
		case b.control.mode == "FULL":
			return chain, ""
		case b.control.parent == "":
			return chain, fmt.Sprintf("chain is broken: %s backup %s names no parent", b.control.mode, b.id)
		}
		parent := s.byID[b.control.parent]
		switch {
		case parent == nil:
			return chain, fmt.Sprintf("chain is broken: backup %s, the parent of %s, is missing", b.control.parent, b.id)
		case parent.control != nil && !parent.control.startTime.Before(b.control.startTime):
			return chain, fmt.Sprintf("chain is broken: backup %s is not older than its child %s", parent.id, b.id)
		}
		b = parent
	}
}

// check resolves the chain of a backup and says why it cannot be read, "" when
// it can as far as control files tell.
func (s *backupSet) check(b *backup) (chain []*backup, reason string) {
	if b.control == nil {
		return []*backup{b}, b.broken
	}
	if reason := ownReason(b.control); reason != "" && b.control.status != statusMerging {
		return []*backup{b}, reason
	}
	chain, reason = s.chain(b)
	if reason != "" {
		return chain, reason
	}
	full := chain[len(chain)-1]
	merging := full.control.status == statusMerging
	if reason := mergeReason(chain); merging && reason != "" {
		return chain, reason
	}
	for _, m := range chain {
		if reason := memberReason(m, b, merging); reason != "" {
			return chain, reason
		}
	}
	return chain, ""
}

// ownReason says what forbids reading this backup whatever its chain is.
func ownReason(c *control) string {
	switch c.status {
	case statusOK, statusDone:
	case statusMerged:
		if c.mode == "FULL" && c.mergeDest != "" && formatID(c.startTime) == c.mergeDest {
			break // the destination itself, resolved to this directory
		}
		return fmt.Sprintf("it was merged and holds backup %s now: choose that one", c.mergeDest)
	case "RUNNING":
		return "status is RUNNING: it is still being made, or pg_probackup was killed meanwhile; choose another backup"
	case "ERROR":
		return "status is ERROR: pg_probackup did not finish it; choose another backup"
	case "CORRUPT":
		return "status is CORRUPT: pg_probackup found it damaged; choose another backup"
	case "ORPHAN":
		return "status is ORPHAN: pg_probackup found a parent missing or damaged; pg_probackup validate tells which"
	case statusMerging:
		return fmt.Sprintf("status is MERGING: it is being merged into %s; run pg_probackup merge again to finish that", cmp.Or(c.mergeDest, "a newer backup"))
	case "DELETING", "DELETED":
		return fmt.Sprintf("status is %s: it is being deleted; choose another backup", c.status)
	case statusSymlink:
		return fmt.Sprintf("status is SYMLINK and the backup that it stands for (%s) is missing", c.symlink)
	default:
		return fmt.Sprintf("status %q is unknown to pg0", c.status)
	}
	return versionReason(c)
}

func versionReason(c *control) string {
	switch {
	case c.version >= version3:
		return fmt.Sprintf("it was written by pg_probackup %s; pg0 reads versions below 3", c.program)
	case c.version < version2 && c.program != "":
		return fmt.Sprintf("it was written by pg_probackup %s; pg0 reads versions from 2.0 on", c.program)
	case c.missing() != "":
		return fmt.Sprintf("%s is damaged: it has no %s", controlName, c.missing())
	case c.blockSize < 1024 || c.blockSize > 32768 || c.blockSize&(c.blockSize-1) != 0:
		return fmt.Sprintf("%s is damaged: block-size is %d", controlName, c.blockSize)
	}
	if _, err := parseAlgorithm(c.algorithm); err != nil {
		return err.Error()
	}
	return ""
}

// memberReason says why a member of the chain of target cannot be read.
func memberReason(m, target *backup, merging bool) string {
	c, t := m.control, target.control
	reason := ""
	switch {
	case merging && c.status == statusMerging:
		reason = versionReason(c)
	default:
		reason = ownReason(c)
	}
	switch {
	case reason != "" && m != target:
		return fmt.Sprintf("its chain needs backup %s, which cannot be used: %s", m.id, reason)
	case reason != "":
		return reason
	case c.blockSize != t.blockSize || c.xlogBlock != t.xlogBlock:
		return fmt.Sprintf("backup %s of its chain has another block size", m.id)
	case c.server != t.server:
		return fmt.Sprintf("backup %s of its chain is of PostgreSQL %d, not %d", m.id, c.server, t.server)
	}
	return ""
}

// mergeReason says why a chain whose FULL backup is being merged cannot be
// read. While files of the FULL are replaced one by one, only the destination
// and what is newer read the same before and after each replacement, and only
// if replaced files can be decoded by what the old list says of them.
func mergeReason(chain []*backup) string {
	full := chain[len(chain)-1]
	at := slices.IndexFunc(chain, func(b *backup) bool { return b.id == full.control.mergeDest })
	if at < 0 || at == len(chain)-1 {
		return fmt.Sprintf("backup %s is being merged into %s: only that one can still be read; run pg_probackup merge again to finish it",
			full.id, cmp.Or(full.control.mergeDest, "a newer backup"))
	}
	dest := chain[at].control
	if dest.algorithm != full.control.algorithm || (dest.version < version2_4) != (full.control.version < version2_4) {
		return fmt.Sprintf("backup %s is half merged into %s, which is compressed otherwise; run pg_probackup merge again to finish it",
			full.id, full.control.mergeDest)
	}
	return ""
}

// info describes a backup as the control files of its chain do.
func (s *backupSet) info(b *backup) pg0.PointInfo {
	chain, reason := s.check(b)
	info := pg0.PointInfo{ID: b.id, Status: statusUnknown, Unusable: reason, SystemID: s.catalog.config.systemID, Warnings: b.warnings}
	if start, ok := parseID(b.id); ok {
		info.StartTime = start
	}
	c := b.control
	if c == nil {
		return info
	}
	for _, m := range chain {
		info.Chain = append(info.Chain, m.id)
	}
	info.Parent, info.Mode, info.Stream, info.Status = c.parent, c.mode, c.stream, cmp.Or(c.status, statusUnknown)
	info.Version, info.Timeline, info.StartLSN, info.StopLSN = c.server, c.timeline, c.start, c.stop
	info.Checksums, info.BlockSize, info.Replica = c.checksums, c.blockSize, c.replica
	info.EndTime, info.RecoveryTime, info.RecoveryXID = c.endTime, c.recTime, c.recXID
	info.Size, info.Bytes, info.Note = c.dataBytes, c.pgdata, c.note
	if c.stream {
		info.Size += c.walBytes
	}
	if reason == "" {
		if info.Digest, info.Unusable = s.digest(chain); info.Unusable != "" {
			info.Digest = ""
		}
	}
	return info
}
