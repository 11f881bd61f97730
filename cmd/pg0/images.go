package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/mapping"
)

func imagesCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List and remove the images of recovered points",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return g.listImages()
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List the images: size, last use, users",
		Args:  usage(noArgs),
		RunE:  func(*cobra.Command, []string) error { return g.listImages() },
	}, imagesRemoveCommand(g), imagesPruneCommand(g))
	return cmd
}

func imagesRemoveCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "remove KEY...",
		Short: "Remove images; the beginning of a key is enough",
		Args:  usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			entries, err := g.images()
			if err != nil {
				return err
			}
			var chosen []image.Entry
			for _, arg := range args {
				entry, err := findImage(entries, arg)
				if err != nil {
					return err
				}
				chosen = append(chosen, entry)
			}
			if err := refuseParents(chosen, entries); err != nil {
				return err
			}
			for _, entry := range chosen {
				if err := g.removeImage(entry); err != nil {
					return err
				}
			}
			return g.removeTakes(cmd.Context(), state.Dir(g.stateDir))
		},
	}
}

func imagesPruneCommand(g *global) *cobra.Command {
	var age time.Duration
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images that nobody uses, and what killed commands left behind",
		Args:  usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.pruneImages(cmd.Context(), age)
		},
	}
	cmd.Flags().DurationVar(&age, "unused-for", 0, "keep what was used within this `time`, such as 72h")
	return cmd
}

func (g *global) imageCache() image.Cache { return image.Cache(state.Dir(g.stateDir).Images()) }

// images lists the cache, with the mounts that show each image.
func (g *global) images() ([]image.Entry, error) {
	mounts, err := state.Dir(g.stateDir).List()
	if err != nil {
		g.logger.Warn("not all mounts are known", "error", err)
	}
	users := map[string][]string{}
	for _, mount := range mounts {
		if !mount.Alive() {
			continue
		}
		for _, key := range mount.Images {
			users[key] = append(users[key], mount.Mountpoint)
		}
	}
	return g.imageCache().List(users)
}

func findImage(entries []image.Entry, prefix string) (image.Entry, error) {
	var found []image.Entry
	for _, entry := range entries {
		if strings.HasPrefix(entry.Key, strings.ToLower(prefix)) {
			found = append(found, entry)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return image.Entry{}, exit.Error(exit.NotFound, fmt.Errorf("no image %s: pg0 images lists them", prefix))
	}
	return image.Entry{}, usageError("%d images begin with %s: give more of the key", len(found), prefix)
}

// refuseParents: an image is needed by those that were derived from it.
func refuseParents(chosen, all []image.Entry) error {
	going := map[string]bool{}
	for _, entry := range chosen {
		going[entry.Key] = true
	}
	for _, entry := range all {
		for _, parent := range entry.Parents {
			if going[parent] && !going[entry.Key] {
				return exit.Error(exit.Busy, fmt.Errorf("image %s stands on %s: remove both", entry.Key, parent))
			}
		}
	}
	return nil
}

// removeImage removes one image that nobody shows.
func (g *global) removeImage(entry image.Entry) error {
	if len(entry.Users) > 0 {
		return exit.Error(exit.Busy, fmt.Errorf("image %s is shown at %s: umount that first", entry.Key, strings.Join(entry.Users, ", ")))
	}
	if entry.Unfinished {
		return exit.Error(exit.Busy, fmt.Errorf("image %s is being made; if its maker was killed, pg0 images prune clears it", entry.Key))
	}
	err := g.imageCache().Remove(entry.Key)
	switch {
	case errors.Is(err, image.ErrBusy):
		return exit.Error(exit.Busy, fmt.Errorf("a running command uses image %s: wait for it, or end it", entry.Key))
	case errors.Is(err, fs.ErrNotExist):
		return nil // somebody else was faster
	case err != nil:
		return fmt.Errorf("remove image %s: %w", entry.Key, err)
	}
	_, err = fmt.Fprintf(g.stderr, "removed image %s (%s)\n", entry.Key, describeImage(entry))
	return err
}

func (g *global) pruneImages(ctx context.Context, age time.Duration) error {
	maker := recovery.Maker{State: state.Dir(g.stateDir), Logger: g.logger}
	cleared, err := maker.Clear(ctx)
	for _, key := range cleared {
		fmt.Fprintf(g.stderr, "cleared image %s, left half made\n", key)
	}
	if err != nil {
		return err
	}
	entries, err := g.images()
	if err != nil {
		return err
	}
	needed := neededByOthers(entries, age)
	for _, entry := range entries {
		if entry.Unfinished || needed[entry.Key] {
			continue
		}
		if err := g.removeImage(entry); err != nil && exit.Code(err) != exit.Busy {
			return err
		}
	}
	return g.removeTakes(ctx, state.Dir(g.stateDir))
}

// neededByOthers are the keys of images that stay, and of those they stand on.
func neededByOthers(entries []image.Entry, age time.Duration) map[string]bool {
	needed := map[string]bool{}
	for _, entry := range entries {
		if len(entry.Users) == 0 && !entry.InUse && time.Since(entry.LastUse) >= age {
			continue
		}
		needed[entry.Key] = true
		for _, parent := range entry.Parents {
			needed[parent] = true
		}
	}
	return needed
}

func (g *global) listImages() error {
	entries, err := g.images()
	if err != nil {
		return err
	}
	if g.json {
		if entries == nil {
			entries = []image.Entry{}
		}
		return g.printJSON(entries)
	}
	table := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tBACKUP\tPOINT\tRECOVERED TO\tSIZE\tLAST USE\tUSERS")
	for _, e := range entries {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Key, e.Choice.Backup.ID, describeImage(e),
			describeEnd(e), describeSize(e), e.LastUse.UTC().Format(time.DateTime), describeUsers(e))
	}
	return table.Flush()
}

func describeImage(e image.Entry) string {
	switch {
	case e.Unfinished:
		return "unfinished"
	case e.Damaged != "":
		return "damaged: " + e.Damaged
	case e.Derived != "":
		return describePoint(e) + ", " + e.Derived
	}
	return describePoint(e)
}

func describePoint(e image.Entry) string {
	if e.Choice.Backup.Mode == livepg.Mode {
		return "live"
	}
	return e.Choice.Target.String()
}

// describeSize adds what was copied of a running server: it goes with the image
// made of it.
func describeSize(e image.Entry) string {
	if e.Choice.Backup.Mode == livepg.Mode && e.Derived == "" {
		return mapping.Size(e.Bytes) + " + " + mapping.Size(e.Choice.Backup.Bytes)
	}
	return mapping.Size(e.Bytes)
}

func describeEnd(e image.Entry) string {
	if e.Recovered.Time.IsZero() {
		return e.Recovered.LSN.String()
	}
	return fmt.Sprintf("%s (%s)", e.Recovered.Time.UTC().Format("2006-01-02 15:04:05.999999"), e.Recovered.LSN)
}

func describeUsers(e image.Entry) string {
	users := e.Users
	if e.InUse && len(users) == 0 {
		users = []string{"a running command"}
	}
	if len(users) == 0 {
		return "-"
	}
	return strings.Join(users, ", ")
}
