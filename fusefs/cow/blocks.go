package cow

// This file is arithmetic on blocks and slots: no I/O, no locks.

// noSlot stands for a block that the layer does not have.
const noSlot = -1

// chunkBlocks is how many blocks one chunk of a blockMap covers.
const chunkBlocks = 64

// maxBlocks bounds the length of a file, at one TiB.
const maxBlocks = 1 << 27

// maxSize is the longest a file can be, in bytes.
const maxSize = maxBlocks * BlockSize

// A blockMap says in which slot of the data file each changed block of a file
// lies. It is an array in chunks, four bytes for a block, because changes come
// in clusters and reads need it in a few nanoseconds.
type blockMap struct {
	chunks []*blockChunk
	count  int // blocks mapped
}

// A blockChunk holds slot numbers plus one; zero is noSlot.
type blockChunk [chunkBlocks]uint32

func (m *blockMap) get(block int64) int64 {
	i := block / chunkBlocks
	if i >= int64(len(m.chunks)) || m.chunks[i] == nil {
		return noSlot
	}
	return int64(m.chunks[i][block%chunkBlocks]) - 1
}

// run returns the slot of a block and for how many blocks, up to limit, the
// slots go on one after the other, or noSlot and for how many blocks there is
// none.
func (m *blockMap) run(block, limit int64) (slot, n int64) {
	if m.count == 0 {
		return noSlot, limit
	}
	slot = m.get(block)
	for n = 1; n < limit; {
		if slot == noSlot && m.emptyChunk(block+n) {
			n += chunkBlocks - (block+n)%chunkBlocks
			continue
		}
		want := slot + n
		if slot == noSlot {
			want = noSlot
		}
		if m.get(block+n) != want {
			break
		}
		n++
	}
	return slot, min(n, limit)
}

func (m *blockMap) emptyChunk(block int64) bool {
	i := block / chunkBlocks
	return i >= int64(len(m.chunks)) || m.chunks[i] == nil
}

// set maps n blocks to the slots from slot on. None of them may be mapped yet.
func (m *blockMap) set(block, slot, n int64) {
	for ; n > 0; block, slot, n = block+1, slot+1, n-1 {
		i := block / chunkBlocks
		for int64(len(m.chunks)) <= i {
			m.chunks = append(m.chunks, nil)
		}
		if m.chunks[i] == nil {
			m.chunks[i] = &blockChunk{}
		}
		m.chunks[i][block%chunkBlocks] = uint32(slot + 1)
		m.count++
	}
}

// cut forgets all blocks from block on and gives their slots to f, in runs.
func (m *blockMap) cut(block int64, f func(slot, n int64)) {
	m.runs(block, func(b, slot, n int64) {
		f(slot, n)
		for k := range n {
			m.chunks[(b+k)/chunkBlocks][(b+k)%chunkBlocks] = 0
		}
		m.count -= int(n)
	})
	keep := (block + chunkBlocks - 1) / chunkBlocks
	if keep < int64(len(m.chunks)) {
		m.chunks = append([]*blockChunk(nil), m.chunks[:keep]...)
	}
}

// runs calls f for the mapped blocks from block on, in order, as few times as
// consecutive slots allow.
func (m *blockMap) runs(block int64, f func(block, slot, n int64)) {
	for end := int64(len(m.chunks)) * chunkBlocks; block < end; {
		slot, n := m.run(block, end-block)
		if slot != noSlot {
			f(block, slot, n)
		}
		block += n
	}
}

// split gives the block that holds an offset and the offset within it.
func split(off int64) (block, within int64) { return off / BlockSize, off % BlockSize }

// covered is how many blocks n bytes touch that begin within bytes into one.
func covered(within, n int64) int64 { return (within + n + BlockSize - 1) / BlockSize }
