package probackup

import (
	"fmt"
	"io"
)

// readPlain reads a file that is stored as it was. Only the checksum of the
// whole file proves it, so the first read compares that.
func (f *file) readPlain(p []byte, off int64) (int, error) {
	c := f.copies[0]
	if c.fault != nil {
		return 0, c.member.damaged(f.path, -1, c.fault)
	}
	if !f.verified.Load() {
		if err := c.verifyPlainOnce(); err != nil {
			return 0, err
		}
	}
	if err := c.readAt(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *stored) verifyPlainOnce() error {
	mu := &c.member.point.indexLocks[c.stripe%lockStripes]
	mu.Lock()
	defer mu.Unlock()
	if c.file.verified.Load() {
		return nil
	}
	if err := c.verifyPlain(nil); err != nil {
		return err
	}
	c.file.verified.Store(true)
	return nil
}

// verifyPlain compares length and checksum of a plain file with the list. What
// it reads is also counted by count, if that is not nil.
func (c *stored) verifyPlain(count io.Writer) error {
	h, err := c.open()
	if err != nil {
		return err
	}
	defer h.release()
	size, err := c.sizeOnDisk(h)
	if err != nil {
		return err
	}
	if c.file.path == controlFile && c.member.control.version >= version2_0_25 {
		return c.verifyControl(h, size, count)
	}
	sum := c.member.control.version.newCRC()
	target := io.Writer(sum)
	if count != nil {
		target = io.MultiWriter(sum, count)
	}
	if _, err := io.Copy(target, io.NewSectionReader(h.file, 0, size)); err != nil {
		return c.member.fault(c.file.path, err)
	}
	if got := sum.Sum32(); got != c.crc {
		return c.member.damaged(c.file.path, -1, fmt.Errorf("checksum is %d, should be %d", got, c.crc))
	}
	return nil
}

// maxControl bounds pg_control, which has 8192 bytes.
const maxControl = 1 << 16

// verifyControl checks pg_control, of which the list keeps the checksum that is
// inside the file.
func (c *stored) verifyControl(h *handle, size int64, count io.Writer) error {
	if size > maxControl {
		return c.member.damaged(c.file.path, -1, fmt.Errorf("file is %d bytes long", size))
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(h.file, 0, size), data); err != nil {
		return c.member.fault(c.file.path, err)
	}
	if count != nil {
		if _, err := count.Write(data); err != nil {
			return err
		}
	}
	control, err := parsePGControl(data)
	if err == nil && control.crc != c.crc {
		err = fmt.Errorf("checksum is %d, should be %d", control.crc, c.crc)
	}
	if err != nil {
		return c.member.damaged(c.file.path, -1, err)
	}
	return nil
}
