package chunk

import (
	"errors"
	"fmt"

	"dfs"
	"dfs/chunk/record"
)

// intentsPage bounds the intents of one answer, in bytes, about.
const intentsPage = 1 << 20

// RecordIntents is the intents of one record of a fragment.
type RecordIntents struct {
	Record    uint32 // where it begins in the fragment file, bytes
	RecordLen uint32 // payload over all data fragments, bytes
	End       uint32 // where the next one begins
	Intents   []byte // nil: it has none
}

// IntentList is the intents of a fragment, or a part of them.
type IntentList struct {
	Fragment uint32
	Session  dfs.SessionID // whose the chunk is
	End      uint32        // where it was sealed
	Next     uint32        // where the next part begins; 0: this was the last
	Records  []RecordIntents
}

// Intents lists the intents of a sealed chunk's records from an offset on. What a crash
// tore is passed over. Errors wrap a dfs.Errno: ENOENT when there is no such chunk here,
// EINVAL when it is not sealed, EIO.
func (s *Store) Intents(id dfs.ChunkID, from uint32) (IntentList, error) {
	c := s.find(id)
	if c == nil {
		return IntentList{}, fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	}
	c.mu.Lock()
	sealed, durable := c.sealed && !c.deleted, c.sealDurable
	out := IntentList{Fragment: c.fragment, Session: c.session, End: c.end}
	c.mu.Unlock()
	switch {
	case c.damaged:
		return IntentList{}, fmt.Errorf("chunk %s is damaged here: %w", id, dfs.EIO)
	case !sealed || !durable:
		return IntentList{}, fmt.Errorf("chunk %s is not sealed: %w", id, dfs.EINVAL)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		return IntentList{}, fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	defer s.files.release(c)
	block := pages.Get().(*[]byte)
	defer pages.Put(block)
	bytes := 0
	for off := max(from, dfs.FirstRecord); off < out.End; {
		if bytes >= intentsPage {
			out.Next = off
			break
		}
		h, err := record.ReadHeader(file, off, *block)
		if errors.Is(err, record.ErrFormat) || err == nil && (h.Chunk != id || h.Fragment != c.fragment || h.Session != out.Session) {
			off += dfs.PageBytes
			continue
		}
		if err != nil {
			return IntentList{}, fmt.Errorf("chunk %s: %w", id, verdict(err))
		}
		r := RecordIntents{Record: off, RecordLen: h.RecordLen, End: off + h.Space()}
		if len(h.Intents) > 0 {
			r.Intents = append([]byte(nil), h.Intents...)
		}
		out.Records = append(out.Records, r)
		bytes += len(r.Intents) + 16
		off = r.End
	}
	return out, nil
}
