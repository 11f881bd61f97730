package probackup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digest covers what decides the bytes of a chain: the identity of the cluster
// and of every member, and the checksum of every member's file list, which in
// turn has a checksum of every file.
func (s *backupSet) digest(chain []*backup) (digest, reason string) {
	sum := sha256.New()
	fmt.Fprintf(sum, "pg_probackup %d exact=%t\n", s.catalog.config.systemID, s.catalog.options.ToolExact)
	for _, m := range chain {
		crc, err := s.listCRC(m)
		if err != nil {
			return "", fmt.Sprintf("the file list of backup %s cannot be read: %v", m.id, err)
		}
		c := m.control
		fmt.Fprintf(sum, "%s %s %s %d %s %s %08x\n", m.id, c.mode, c.program, c.timeline, c.start, c.stop, crc)
	}
	return hex.EncodeToString(sum.Sum(nil)), ""
}

// listCRC is the checksum of a member's list: the recorded one, or that of the
// file where the writer was too old to record it.
func (s *backupSet) listCRC(m *backup) (uint32, error) {
	if m.control.contentCRC != 0 {
		return m.control.contentCRC, nil
	}
	f, err := os.Open(filepath.Join(s.catalog.dir, m.dir, listName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	hash := crc32.New(castagnoli)
	if _, err := io.Copy(hash, f); err != nil {
		return 0, err
	}
	return hash.Sum32(), nil
}
