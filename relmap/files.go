package relmap

// Fork is one of the files a relation consists of.
type Fork int

// The forks of a relation.
const (
	Main Fork = iota
	FSM
	VM
	Init
)

// suffix is what PostgreSQL appends to the name of the main fork.
func (f Fork) suffix() string {
	return [...]string{"", "_fsm", "_vm", "_init"}[f]
}

// String gives PostgreSQL's name of the fork, as pg_relation_size takes it.
func (f Fork) String() string {
	return [...]string{"main", "fsm", "vm", "init"}[f]
}

// File is one segment of one fork. Path opens it in the tree the cluster was
// opened from.
type File struct {
	Path    string
	Fork    Fork
	Segment int   // 0, 1, ...: SegmentBlocks blocks each but the last
	Size    int64 // bytes
}
