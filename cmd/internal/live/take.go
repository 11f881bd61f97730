package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/livepg"
)

// An Estimate says what taking a point reads.
type Estimate struct {
	Bytes     int64
	Files     int
	Relations int           // that the selection matched; 0 when everything is taken
	Time      time.Duration // at the rate; 0 without one
}

// Estimate looks at what a selection would read now.
func (p *Production) Estimate(ctx context.Context, want Selection) (Estimate, error) {
	s, err := p.survey(ctx, want)
	if err != nil {
		return Estimate{}, err
	}
	e := Estimate{Bytes: s.bytes(), Files: len(s.take)}
	if s.census != nil {
		e.Relations = len(s.census.names)
	}
	if p.Rate > 0 {
		e.Time = time.Duration(float64(e.Bytes) / float64(p.Rate) * float64(time.Second)).Round(time.Second)
	}
	return e, nil
}

// attempts bounds how often a point is taken because relations got new files
// after the last look at them.
const attempts = 3

// errMoved says that relations have files that were not taken.
var errMoved = errors.New("relations got new files while the backup ended")

// Take takes a point, to be released by the caller. Nobody sees it before it is
// complete. progress gets bytes done and to do.
func (p *Production) Take(ctx context.Context, want Selection, catalog *livepg.Catalog, progress func(done, total int64)) (*livepg.Taking, error) {
	for n := 1; ; n++ {
		taken, err := p.takeOnce(ctx, want, catalog, progress)
		if !errors.Is(err, errMoved) || n == attempts {
			if err != nil {
				err = fmt.Errorf("source %s: %w", p.Name, err)
			}
			return taken, err
		}
		p.log.Info("taking the live point again", "source", p.Name, "reason", err)
	}
}

func (p *Production) takeOnce(ctx context.Context, want Selection, catalog *livepg.Catalog, progress func(done, total int64)) (*livepg.Taking, error) {
	taking, err := catalog.Begin(time.Now())
	if err != nil {
		return nil, err
	}
	t := &taker{p: p, Taking: taking, want: want, progress: progress, taken: map[string]int64{}, held: map[string]bool{}}
	record, err := t.run(ctx)
	if err != nil {
		return nil, errors.Join(err, taking.Abandon())
	}
	return taking, taking.Finish(record)
}

// A taker takes one point.
type taker struct {
	*livepg.Taking
	p        *Production
	want     Selection
	progress func(done, total int64)

	taken map[string]int64 // files, with their lengths
	held  map[string]bool  // relations whose files were taken
	seen  map[string]bool  // relations that had files when the backup had just begun
	total atomic.Int64
	done  atomic.Int64
}

// run holds the backup around the copying, and streams the WAL meanwhile.
func (t *taker) run(ctx context.Context) (*livepg.Record, error) {
	started := time.Now().UTC()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	wal, err := t.p.reserve(ctx)
	if err != nil {
		return nil, err
	}
	defer wal.close() //nolint:errcheck // of a point that is given up
	if err := t.begin(ctx, wal, giveUp); err != nil {
		return nil, errors.Join(err, t.cancel())
	}
	stopped, err := t.copyAll(ctx)
	if err == nil {
		err = t.takeWAL(ctx, wal, stopped)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // what else failed did so for that
		}
		return nil, errors.Join(err, t.cancel())
	}
	if err := t.furnish(ctx, stopped.label); err != nil {
		return nil, err
	}
	return t.record(started, stopped), nil
}

// begin starts the backup and the stream of WAL from its first record on.
func (t *taker) begin(ctx context.Context, wal *stream, giveUp context.CancelCauseFunc) error {
	from, timeline, err := t.start(ctx)
	if err != nil {
		return err
	}
	dir := t.local("pg_wal")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	wal.advance = func(n int64) {
		t.total.Add(n)
		t.advance(n)
	}
	return wal.receive(ctx, from, timeline, dir, giveUp)
}

// cancel ends what the session holds: a new one takes its place.
func (t *taker) cancel() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	_ = t.p.conn.Close(ctx) // a dead one holds nothing either
	conn, err := t.p.session(ctx, t.p.config.Database)
	if err == nil {
		t.p.conn = conn
	}
	return err
}

// checkpointPatience bounds the checkpoint that a backup begins with.
const checkpointPatience = "15min"

// start gives where replay begins, and on which timeline.
func (t *taker) start(ctx context.Context) (from pg0.LSN, timeline uint32, err error) {
	sql := "select pg_backup_start($1, true)::text"
	if t.p.Version < 15 {
		sql = "select pg_start_backup($1, true, false)::text"
	}
	if _, err := t.p.conn.Exec(ctx, "set statement_timeout = '"+checkpointPatience+"'"); err != nil {
		return 0, 0, err
	}
	var text string
	if err := t.p.conn.QueryRow(ctx, sql, "pg0 "+t.ID).Scan(&text); err != nil {
		return 0, 0, fmt.Errorf("start the backup: %w", err)
	}
	if err := t.p.conn.QueryRow(ctx, "select timeline_id::int8 from pg_control_checkpoint()").Scan(&timeline); err != nil {
		return 0, 0, fmt.Errorf("ask for the timeline: %w", err)
	}
	from, err = lsn(text)
	return from, timeline, err
}

// A stop is what ends a backup.
type stop struct {
	start, lsn pg0.LSN
	timeline   uint32
	label      string
	time       time.Time // everything that was committed by then is in the point
}

// rounds bounds how often the catalogs are looked at for files that came into
// being meanwhile.
const rounds = 20

// copyAll copies what is wanted, and what of it changes its files meanwhile
// again, and stops the backup.
func (t *taker) copyAll(ctx context.Context) (*stop, error) {
	for n := 0; ; n++ {
		s, err := t.p.survey(ctx, t.want)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			t.see(s)
		}
		fresh := t.fresh(s)
		if n > 0 && (len(fresh) == 0 || t.want.all()) {
			break // WAL has all files of a cluster that is taken as a whole
		}
		if n == rounds {
			return nil, fmt.Errorf("relations get new files faster than they are copied: %s", t.unheld(s))
		}
		if err := t.copy(ctx, s, fresh); err != nil {
			return nil, err
		}
		if n == 0 {
			if err := t.hollow(s.hollow); err != nil {
				return nil, err
			}
		}
	}
	if err := t.copyControl(ctx); err != nil {
		return nil, err
	}
	stopped, err := t.stop(ctx)
	if err != nil {
		return nil, err
	}
	return stopped, t.unmoved(ctx)
}

// see remembers what had files when the backup had just begun. Files that come
// into being later need not be copied: WAL has everything that is in them.
func (t *taker) see(s *survey) {
	t.seen = map[string]bool{}
	for _, one := range append(slices.Clone(s.take), s.hollow...) {
		t.seen[relationOf(one.name)] = true
	}
}

// covered says whether a relation is taken, or will come into being in replay.
func (t *taker) covered(relation string) bool { return !t.seen[relation] || t.held[relation] }

// fresh are the files that have not been taken of relations that have not been
// taken; once a relation is, WAL has what changes.
func (t *taker) fresh(s *survey) []piece {
	if len(t.taken) == 0 {
		return s.take
	}
	var files []piece
	for _, one := range s.take {
		relation := relationOf(one.name)
		if relation != "" && !t.covered(relation) {
			files = append(files, one)
		}
	}
	return files
}

// unheld names relations that are wanted and not taken.
func (t *taker) unheld(s *survey) string {
	var names []string
	for relation := range s.census.held {
		if !t.covered(relation) {
			names = append(names, relation)
		}
	}
	slices.Sort(names)
	return strings.Join(names[:min(len(names), 3)], ", ")
}

// unmoved checks after the end of the backup that no wanted relation has files
// that were not taken.
func (t *taker) unmoved(ctx context.Context) error {
	if t.want.all() {
		return nil
	}
	c, err := t.p.census(ctx, t.want)
	if err != nil {
		return err
	}
	for relation := range c.held {
		if !t.covered(relation) {
			return fmt.Errorf("%w: %s", errMoved, relation)
		}
	}
	return nil
}

// copy copies files, several at a time.
func (t *taker) copy(ctx context.Context, s *survey, files []piece) error {
	for _, dir := range s.dirs {
		if err := os.MkdirAll(t.local(dir), 0o700); err != nil {
			return err
		}
	}
	for _, one := range files {
		t.total.Add(one.size)
	}
	group, ctx := errgroup.WithContext(ctx)
	queue := make(chan piece)
	group.Go(func() error {
		defer close(queue)
		for _, one := range files {
			select {
			case queue <- one:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	type result struct {
		name string
		size int64
	}
	results := make(chan result, len(files))
	for worker := range max(t.p.Connections, 1) {
		group.Go(func() error {
			if err := t.yield(); err != nil {
				return err
			}
			for one := range queue {
				n, err := t.p.relay.copy(ctx, worker, one.name, t.local(one.name), t.advance)
				if errors.Is(err, fs.ErrNotExist) {
					continue // dropped or rewritten: the next look at the catalogs tells
				}
				if err != nil {
					return fmt.Errorf("copy %s: %w", one.name, err)
				}
				results <- result{one.name, n}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	close(results)
	for r := range results {
		t.taken[r.name] = r.size
		if relation := relationOf(r.name); relation == r.name {
			t.held[relation] = true
		}
	}
	return nil
}

// yield keeps a goroutine that reads beside the server from being in its way.
func (t *taker) yield() error {
	if !t.p.Beside() {
		return nil
	}
	return proc.YieldThread()
}

func (t *taker) advance(n int64) { t.progress(t.done.Add(n), max(t.total.Load(), t.done.Load())) }

// local is where a file of the server is kept: tablespaces lie beside the links
// to them.
func (t *taker) local(name string) string {
	if rest, ok := strings.CutPrefix(name, "pg_tblspc/"); ok && rest != "" {
		name = ".pg0_tblspc/" + rest
	}
	return filepath.Join(t.Data(), filepath.FromSlash(name))
}

// hollow makes files that have a length and no content, and take no room.
func (t *taker) hollow(files []piece) error {
	for _, one := range files {
		file, err := os.OpenFile(t.local(one.name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(file.Truncate(one.size), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

var relationPath = regexp.MustCompile(`^((?:base/\d+|global|pg_tblspc/\d+/PG_\w+/\d+)/\d+)(?:_(?:fsm|vm|init))?(?:\.\d+)?$`)

// relationOf takes fork and segment off the name of a relation's file; "" for
// another file.
func relationOf(name string) string {
	if match := relationPath.FindStringSubmatch(name); match != nil {
		return match[1]
	}
	return ""
}

// copyControl copies pg_control, again while it is being written.
func (t *taker) copyControl(ctx context.Context) error {
	for n := 1; ; n++ {
		size, err := t.p.relay.copy(ctx, 0, controlFile, t.local(controlFile), func(int64) {})
		if err != nil {
			return fmt.Errorf("copy %s: %w", controlFile, err)
		}
		text, err := os.ReadFile(t.local(controlFile))
		if err != nil {
			return err
		}
		if soundControl(text) {
			t.taken[controlFile] = size
			return nil
		}
		if n == rounds {
			return fmt.Errorf("%s has a wrong checksum", controlFile)
		}
	}
}

func (t *taker) stop(ctx context.Context) (*stop, error) {
	sql := "select lsn::text, labelfile, $1::timestamptz from pg_backup_stop(false)"
	if t.p.Version < 15 {
		sql = "select lsn::text, labelfile, $1::timestamptz from pg_stop_backup(false, false)"
	}
	var now time.Time
	if err := t.p.conn.QueryRow(ctx, "select clock_timestamp()").Scan(&now); err != nil {
		return nil, fmt.Errorf("the session that holds the backup: %w", err)
	}
	s := &stop{time: now.UTC()}
	var end string
	var at time.Time
	if err := t.p.conn.QueryRow(ctx, sql, now).Scan(&end, &s.label, &at); err != nil {
		return nil, fmt.Errorf("stop the backup: %w", err)
	}
	var err error
	if s.lsn, err = lsn(end); err != nil {
		return nil, err
	}
	return s, s.readLabel()
}

var (
	labelStart    = regexp.MustCompile(`(?m)^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) `)
	labelTimeline = regexp.MustCompile(`(?m)^START TIMELINE: (\d+)$`)
)

// readLabel takes from backup_label where replay begins.
func (s *stop) readLabel() error {
	start, timeline := labelStart.FindStringSubmatch(s.label), labelTimeline.FindStringSubmatch(s.label)
	if start == nil || timeline == nil {
		return fmt.Errorf("the backup's label has no start: %q", s.label)
	}
	number, err := strconv.ParseUint(timeline[1], 10, 32)
	if err != nil {
		return err
	}
	s.timeline = uint32(number)
	s.start, err = lsn(start[1])
	return err
}

// takeWAL waits for the WAL up to the stop of the backup.
func (t *taker) takeWAL(ctx context.Context, wal *stream, s *stop) error {
	if s.timeline != wal.timeline {
		return fmt.Errorf("the backup began on timeline %d and its WAL on %d", s.timeline, wal.timeline)
	}
	names, err := wal.until(ctx, s.start, s.lsn)
	for _, name := range names {
		t.taken["pg_wal/"+name] = t.p.SegmentSize
	}
	return err
}

// furnish adds what a recovery needs beside files of the server.
func (t *taker) furnish(ctx context.Context, label string) error {
	if err := os.WriteFile(t.local("backup_label"), []byte(label), 0o600); err != nil {
		return err
	}
	spaces, err := os.ReadDir(filepath.Join(t.Data(), ".pg0_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, space := range spaces {
		link := filepath.Join(t.Data(), "pg_tblspc", space.Name())
		if err := os.Symlink("../.pg0_tblspc/"+space.Name(), link); err != nil {
			return err
		}
	}
	if err := t.settings(ctx); err != nil {
		return err
	}
	dir, err := os.Open(t.Data())
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// settings writes those of production that change how data reads.
func (t *taker) settings(ctx context.Context) error {
	rows, err := t.p.conn.Query(ctx, `select name, coalesce(reset_val, boot_val) from pg_settings
where name in ('lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time', 'default_text_search_config', 'bytea_output', 'intervalstyle', 'xmlbinary', 'array_nulls')`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var text strings.Builder
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return os.WriteFile(t.local("postgresql.conf"), []byte(text.String()), 0o600)
}

// record says what was taken.
func (t *taker) record(started time.Time, s *stop) *livepg.Record {
	p := t.p
	r := &livepg.Record{SegmentSize: p.SegmentSize, Files: t.taken, Relay: "sql"}
	if p.PGData != "" {
		r.Relay = "pgdata"
	}
	if !t.want.all() {
		for _, relation := range slices.Sorted(maps.Keys(t.seen)) {
			if relation != "" && !t.held[relation] {
				r.Hollow = append(r.Hollow, relation)
			}
		}
	}
	var bytes int64
	for _, size := range t.taken {
		bytes += size
	}
	r.PointInfo = pg0.PointInfo{
		ID: t.ID, Mode: livepg.Mode, Stream: true, Status: "OK",
		SystemID: p.SystemID, Version: p.Version, Timeline: s.timeline, StartLSN: s.start, StopLSN: s.lsn,
		Checksums: p.Checksums, BlockSize: p.BlockSize, Replica: p.Replica, Partial: !t.want.all(),
		StartTime: started, EndTime: time.Now().UTC(), RecoveryTime: s.time,
		Size: bytes, Bytes: bytes, Digest: t.ID + " of " + p.Where,
	}
	return r
}
