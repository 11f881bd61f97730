package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/mapping"
)

// listedPoint is one backup with what its WAL reaches.
type listedPoint struct {
	pg0.PointInfo
	Reach   *reach.Range `json:"reach,omitempty"`
	Problem string       `json:"problem,omitempty"`
	Lost    []reach.Gap  `json:"lost_wal,omitempty"`
}

func pointsCommand(g *global) *cobra.Command {
	var catalog catalogFlags
	cmd := &cobra.Command{
		Use:   "points",
		Short: "List the backups of a catalog and what their WAL reaches",
		Example: `  pg0 points -B /srv/backups --instance shop
  pg0 points -B /srv/backups -v`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			points, err := listPoints(cmd, g, &catalog)
			switch {
			case err != nil:
				return err
			case g.json:
				return g.printJSON(points)
			case g.verbose:
				return writePointDetails(g.stdout, points)
			}
			return writePoints(g.stdout, points)
		},
	}
	catalog.register(cmd.Flags())
	return cmd
}

func listPoints(cmd *cobra.Command, g *global, flags *catalogFlags) ([]listedPoint, error) {
	ref, err := flags.ref()
	if err != nil {
		return nil, err
	}
	catalog, err := ref.Open(g.logger)
	if err != nil {
		return nil, err
	}
	infos, err := catalog.Points(cmd.Context())
	if err != nil {
		return nil, err
	}
	spans, err := reach.Spans(cmd.Context(), catalog, infos)
	if err != nil {
		return nil, err
	}
	points := make([]listedPoint, len(infos))
	for i, info := range infos {
		points[i] = listedPoint{info, spans[i].Reach, spans[i].Problem, spans[i].Lost}
	}
	return points, nil
}

// writePoints prints one line a backup, and below what is wrong.
func writePoints(w io.Writer, points []listedPoint) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tTIME\tMODE\tCHAIN\tWAL\tSIZE\tSTATUS\tREACHES UNTIL\tLSN")
	for _, p := range points {
		until, lsn := "-", "-"
		if p.Reach != nil {
			until, lsn = localTime(p.Reach.ToTime), p.Reach.From.String()+" .. "+p.Reach.To.String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			p.ID, localTime(p.StartTime), orDash(p.Mode), chainOf(p.PointInfo), walMode(p.PointInfo), mapping.Size(p.Size), p.Status, until, lsn)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, line := range troubles(points) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// troubles says what the table has no room for, each thing once.
func troubles(points []listedPoint) []string {
	var lines []string
	said := map[reach.Gap]bool{}
	for _, p := range points {
		if p.Problem != "" {
			lines = append(lines, p.ID+": "+p.Problem)
		}
		for _, warning := range p.Warnings {
			lines = append(lines, p.ID+": "+warning)
		}
	}
	for _, p := range points {
		for _, gap := range p.Lost {
			if !said[gap] {
				said[gap] = true
				lines = append(lines, "lost WAL: "+gap.String())
			}
		}
	}
	return lines
}

// writePointDetails prints all that is known of each backup.
func writePointDetails(w io.Writer, points []listedPoint) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, p := range points {
		if i > 0 {
			fmt.Fprintln(table)
		}
		for _, line := range details(p) {
			if line[1] != "" {
				fmt.Fprintf(table, "%s\t%s\n", line[0], line[1])
			}
		}
	}
	return table.Flush()
}

func details(p listedPoint) [][2]string {
	lines := [][2]string{
		{"backup", p.ID},
		{"status", p.Status},
		{"mode", p.Mode},
		{"chain", strings.Join(p.Chain, " < ")},
		{"PostgreSQL", nonZero("%d", p.Version)},
		{"system id", nonZero("%d", p.SystemID)},
		{"timeline", nonZero("%d", p.Timeline)},
		{"WAL", walMode(p.PointInfo)},
		{"started", localTime(p.StartTime)},
		{"ended", localTime(p.EndTime)},
		{"start LSN", p.StartLSN.String()},
		{"stop LSN", p.StopLSN.String()},
		{"recovery time", localTime(p.RecoveryTime)},
		{"recovery xid", nonZero("%d", p.RecoveryXID)},
		{"checksums", fmt.Sprint(p.Checksums)},
		{"stored", mapping.Size(p.Size)},
		{"cluster", mapping.Size(p.Bytes)},
		{"note", p.Note},
	}
	if p.Replica {
		lines = append(lines, [2]string{"taken on", "a standby"})
	}
	if p.Reach != nil {
		lines = append(lines, [2]string{"reaches", localPlace(p.Reach.From, p.Reach.FromTime) + " to " + localPlace(p.Reach.To, p.Reach.ToTime)})
	}
	lines = append(lines, [2]string{"problem", p.Problem})
	for _, gap := range p.Lost {
		lines = append(lines, [2]string{"lost WAL", gap.String()})
	}
	for _, warning := range p.Warnings {
		lines = append(lines, [2]string{"warning", warning})
	}
	return lines
}

func nonZero[T uint32 | uint64 | int](format string, n T) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}

func localPlace(lsn pg0.LSN, at time.Time) string {
	if at.IsZero() {
		return lsn.String()
	}
	return lsn.String() + " (" + localTime(at) + ")"
}

// localTime writes a time as PostgreSQL does, in the zone of the machine.
func localTime(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Local().Format("2006-01-02 15:04:05-07")
}

// chainOf names the full backup of a chain and how many increments follow it.
func chainOf(p pg0.PointInfo) string {
	switch n := len(p.Chain); {
	case n == 0:
		return orDash(p.Parent)
	case n == 1:
		return p.Chain[0]
	default:
		return fmt.Sprintf("%s +%d", p.Chain[n-1], n-1)
	}
}

func walMode(p pg0.PointInfo) string {
	switch {
	case p.Mode == "":
		return "-"
	case p.Stream:
		return "STREAM"
	}
	return "ARCHIVE"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
