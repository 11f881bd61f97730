package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
)

type relationsCmd struct {
	*global
	point    pointFlags
	bindir   string
	database string
	all      bool
}

func relationsCommand(g *global) *cobra.Command {
	c := &relationsCmd{global: g}
	cmd := &cobra.Command{
		Use:   "relations POINT [PATTERN]",
		Short: "List the relations of a point and their files",
		Long: `List the relations of a point: kind, files, size, TOAST table, indexes. They are
read from the files of the point's image; if there is none yet it is made first.
With -v every file is listed, JSON always has them.

PATTERN is relation, schema.relation or database.schema.relation, as in a mapping
file: * and ? are wildcards, other names than lower-case ones need double quotes.`,
		Example: `  pg0 relations -B /srv/backups -i TEI900
  pg0 relations -B /srv/backups --database shop 'public.order*' -v`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	flags := cmd.Flags()
	c.point.register(flags)
	flags.StringVarP(&c.database, "database", "d", "", "only this `database` (default: all but templates)")
	flags.BoolVar(&c.all, "all", false, "also the system's own relations, and TOAST tables and indexes by themselves")
	flags.StringVar(&c.bindir, "pg-bindir", "", "`directory` of PostgreSQL's server programs (default $PG0_PGBIN, then the usual places)")
	return cmd
}

// A relationView is what the command shows of a relation. Size is of its own
// files, Total with those of TOAST table and indexes.
type relationView struct {
	Database    string         `json:"database"`
	Schema      string         `json:"schema"`
	Name        string         `json:"name"`
	Kind        string         `json:"kind"`
	OID         uint32         `json:"oid"`
	Filenode    uint32         `json:"filenode,omitempty"`
	Tablespace  uint32         `json:"tablespace,omitempty"`
	Path        string         `json:"path,omitempty"` // as pg_relation_filepath prints it
	Files       []fileView     `json:"files,omitempty"`
	Size        int64          `json:"size"`
	Total       int64          `json:"total"`
	Method      string         `json:"method,omitempty"` // access method
	Unpopulated bool           `json:"unpopulated,omitempty"`
	Parent      string         `json:"parent,omitempty"`     // it is a partition of
	Partitions  []string       `json:"partitions,omitempty"` // its direct ones
	Sequences   []string       `json:"sequences,omitempty"`  // that its columns own
	Toast       *relationView  `json:"toast,omitempty"`
	Indexes     []relationView `json:"indexes,omitempty"`
}

// A fileView is one segment of a fork.
type fileView struct {
	Path    string `json:"path"` // below the cluster directory, links followed
	Fork    string `json:"fork"`
	Segment int    `json:"segment"`
	Size    int64  `json:"size"`
}

func (c *relationsCmd) run(ctx context.Context, args []string) error {
	pattern, err := parseRelationPattern(args)
	if err != nil {
		return err
	}
	if err := refuseRoot("pg0 relations"); err != nil {
		return err
	}
	dir, err := state.Open(c.stateDir)
	if err != nil {
		return err
	}
	ref, catalog, choice, err := c.point.openPoint(ctx, c.global)
	if err != nil {
		return err
	}
	m := moment{name: c.point.name(choice), source: ref.String(), ref: ref, catalog: catalog, choice: choice}
	images, err := c.ready(ctx, dir, c.bindir, []moment{m})
	if err != nil {
		return err
	}
	defer closeImages(images) //nolint:errcheck // only locks and descriptors for reading
	cluster, err := relmap.Open(images[0].Tree)
	if err != nil {
		return err
	}
	views, err := c.list(cluster, pattern)
	if err != nil {
		return err
	}
	if len(views) == 0 && pattern != nil {
		return exit.Error(exit.NotFound, fmt.Errorf("no relation of %s matches %s; see pg0 relations without a pattern", m.name, pattern))
	}
	return c.print(views)
}

// relationShapes are the forms of a pattern.
var relationShapes = []string{"relation", "schema.relation", "database.schema.relation"}

// parseRelationPattern reads the pattern if one is given. It has as many parts
// as it has.
func parseRelationPattern(args []string) (*mapping.Pattern, error) {
	if len(args) == 0 {
		return nil, nil
	}
	var err error
	for _, shape := range relationShapes {
		var pattern mapping.Pattern
		if pattern, err = mapping.ParsePattern(args[0], shape); err == nil {
			return &pattern, nil
		}
	}
	return nil, exit.Error(exit.Usage, err)
}

// matchesRelation tries a pattern of one to three parts on a full name.
func matchesRelation(pattern *mapping.Pattern, database string, r *relmap.Relation) bool {
	return pattern == nil || pattern.Match(r.Name) || pattern.Match(r.Schema, r.Name) || pattern.Match(database, r.Schema, r.Name)
}

// list views the relations of the wanted databases that the pattern matches.
func (c *relationsCmd) list(cluster *relmap.Cluster, pattern *mapping.Pattern) ([]relationView, error) {
	names, err := c.databases(cluster)
	if err != nil {
		return nil, err
	}
	views := []relationView{}
	for _, name := range names {
		d, err := cluster.Database(name)
		if err != nil {
			return nil, err
		}
		for _, r := range d.Relations() {
			if !c.wanted(r) || !matchesRelation(pattern, d.Name, r) {
				continue
			}
			view, err := viewRelation(d, r)
			if err != nil {
				return nil, err
			}
			views = append(views, view)
		}
	}
	return views, nil
}

// databases names what is to be listed.
func (c *relationsCmd) databases(cluster *relmap.Cluster) ([]string, error) {
	list, err := cluster.Databases()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range list {
		if d.Name == c.database {
			return []string{d.Name}, nil
		}
		if !d.Template {
			names = append(names, d.Name)
		}
	}
	if c.database != "" {
		return nil, exit.Error(exit.NotFound, fmt.Errorf("the point has no database %q; it has %s", c.database, strings.Join(names, ", ")))
	}
	return names, nil
}

// wanted leaves out what is listed with its table, and the system's own.
func (c *relationsCmd) wanted(r *relmap.Relation) bool {
	if c.all {
		return true
	}
	switch r.Kind {
	case relmap.KindToast, relmap.KindIndex, relmap.KindPartitionedIndex, relmap.KindComposite:
		return false
	}
	return r.Schema != "pg_catalog" && r.Schema != "information_schema"
}

// viewRelation collects a relation with its TOAST table and indexes.
func viewRelation(d *relmap.Database, r *relmap.Relation) (relationView, error) {
	v, err := viewFiles(d, r)
	if err != nil {
		return v, err
	}
	v.Total = v.Size
	for _, index := range r.Indexes {
		view, err := viewFiles(d, index.Relation)
		if err != nil {
			return v, err
		}
		v.Indexes = append(v.Indexes, view)
		v.Total += view.Size
	}
	if r.Toast != nil {
		toast, err := viewRelation(d, r.Toast)
		if err != nil {
			return v, err
		}
		v.Toast = &toast
		v.Total += toast.Total
	}
	return v, nil
}

// viewFiles is a relation with the files of its own.
func viewFiles(d *relmap.Database, r *relmap.Relation) (relationView, error) {
	v := relationView{
		Database: d.Name, Schema: r.Schema, Name: r.Name, Kind: kindOf(r), OID: r.OID, Filenode: r.Filenode,
		Tablespace: r.Tablespace, Method: d.AccessMethod(r.AM), Unpopulated: !r.Populated,
		Partitions: qualified(r.Partitions), Sequences: qualified(r.Sequences),
	}
	if r.Parent != nil {
		v.Parent = r.Parent.Schema + "." + r.Parent.Name
	}
	var err error
	if v.Path, err = d.Path(r); err != nil {
		return v, err
	}
	files, err := d.Files(r)
	if err != nil {
		return v, err
	}
	for _, f := range files {
		v.Files = append(v.Files, fileView{f.Path, f.Fork.String(), f.Segment, f.Size})
		v.Size += f.Size
	}
	v.Total = v.Size
	return v, nil
}

func qualified(relations []*relmap.Relation) []string {
	var names []string
	for _, r := range relations {
		names = append(names, r.Schema+"."+r.Name)
	}
	return names
}

// kindOf names a kind as psql does.
func kindOf(r *relmap.Relation) string {
	kind := map[byte]string{
		relmap.KindTable: "table", relmap.KindIndex: "index", relmap.KindSequence: "sequence",
		relmap.KindToast: "TOAST table", relmap.KindView: "view", relmap.KindMatview: "materialized view",
		relmap.KindComposite: "composite type", relmap.KindForeignTable: "foreign table",
		relmap.KindPartitionedTable: "partitioned table", relmap.KindPartitionedIndex: "partitioned index",
	}[r.Kind]
	switch r.Persistence {
	case relmap.Unlogged:
		return "unlogged " + kind
	case relmap.Temporary:
		return "temporary " + kind
	}
	return kind
}

func (c *relationsCmd) print(views []relationView) error {
	if c.json {
		return c.printJSON(views)
	}
	table := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RELATION\tKIND\tSIZE\tTOAST\tINDEXES\tFILES\tPATH")
	for _, v := range views {
		fmt.Fprintf(table, "%s.%s.%s\t%s\t%s\t%s\t%s\t%d\t%s\n",
			mapping.QuoteIdent(v.Database), mapping.QuoteIdent(v.Schema), mapping.QuoteIdent(v.Name),
			v.Kind, sizeOf(&v), v.toastSize(), v.indexSize(), len(v.allFiles()), orDash(v.Path))
		if !c.verbose {
			continue
		}
		for _, f := range v.allFiles() {
			fmt.Fprintf(table, "  %s %s\t%s\t%s\t\t\t\t%s\n", f.owner.Kind, mapping.QuoteIdent(f.owner.Name), f.Fork, mapping.Size(f.Size), f.Path)
		}
	}
	return table.Flush()
}

// ownedFile is a file and which part of a relation it belongs to.
type ownedFile struct {
	fileView
	owner *relationView
}

// allFiles are those of the relation, its TOAST table and the indexes of both.
func (v *relationView) allFiles() []ownedFile {
	var files []ownedFile
	for _, f := range v.Files {
		files = append(files, ownedFile{f, v})
	}
	if v.Toast != nil {
		files = append(files, v.Toast.allFiles()...)
	}
	for i := range v.Indexes {
		files = append(files, v.Indexes[i].allFiles()...)
	}
	return files
}

func sizeOf(v *relationView) string {
	if v.Path == "" {
		return "-"
	}
	return mapping.Size(v.Size)
}

func (v *relationView) toastSize() string {
	if v.Toast == nil {
		return "-"
	}
	return mapping.Size(v.Toast.Total)
}

func (v *relationView) indexSize() string {
	if len(v.Indexes) == 0 {
		return "-"
	}
	var size int64
	for i := range v.Indexes {
		size += v.Indexes[i].Size
	}
	return fmt.Sprintf("%d, %s", len(v.Indexes), mapping.Size(size))
}
