package cow

// Disk is the file of a layer that tests put in place of a real one.
type Disk = disk

// WithDisks makes Open take the files of a layer from open.
func WithDisks(o Options, open func(name string) (Disk, error)) Options {
	o.disks = open
	return o
}

// CompactAt sets the length at which the journal is rewritten.
func (s *Store) CompactAt(n int64) { s.j.compactAt.Store(n) }

// Frame makes a journal, or the index of an image, with one batch.
func Frame(kind byte, payload []byte) []byte {
	b := append(make([]byte, frameHead), payload...)
	sealFrame(b, 0)
	return append(fileHead(kind), b...)
}

// Payload gives the records of the batches in a journal or an index.
func Payload(b []byte) (out []byte) {
	r := &frameReader{b: b, off: headSize}
	for p := r.next(); p != nil; p = r.next() {
		out = append(out, p...)
	}
	return out
}

// Frames gives the offsets at which the batches of a journal end.
func Frames(b []byte) (ends []int) {
	r := &frameReader{b: b, off: headSize}
	for p := r.next(); p != nil; p = r.next() {
		ends = append(ends, r.off)
	}
	return ends
}

// Kinds of files.
const (
	KindLayer = kindLayer
	KindImage = kindImage
)
