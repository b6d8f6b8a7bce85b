package dfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Intent says what a piece of a record is part of, in the record itself. So fsync need
// not wait for the masters: if the client dies before it has told them, the next leader
// finds the intent next to the bytes and tells them in its place. See docs/coherence.md.
type Intent struct {
	Ino   Ino
	Off   uint64 // in the file, bytes
	Len   uint32 // bytes, 1 at least
	Start uint32 // in the payload of the record, bytes
	Mtime Time   // zero: it has been set since
	Ctime Time

	// Seq orders the pieces of a session, from 1. Prev is the one of the piece of the
	// same file before; 0: not known. A piece counts when the file is as Prev has left it.
	Seq, Prev uint64
}

// intentsVersion is the first byte of encoded intents.
const intentsVersion = 1

// intentsTimes says which times an intent has.
const (
	intentMtime = 1 << iota
	intentCtime
)

var errIntents = errors.New("malformed intents")

// AppendIntents encodes intents behind b.
func AppendIntents(b []byte, list []Intent) []byte {
	b = append(b, intentsVersion)
	for i := range list {
		t := &list[i]
		for _, v := range [...]uint64{uint64(t.Ino), t.Off, uint64(t.Len), uint64(t.Start), t.Seq, t.Prev} {
			b = binary.AppendUvarint(b, v)
		}
		var has byte
		if t.Mtime != (Time{}) {
			has |= intentMtime
		}
		if t.Ctime != (Time{}) {
			has |= intentCtime
		}
		b = append(b, has)
		for _, at := range [...]Time{t.Mtime, t.Ctime} {
			if at != (Time{}) {
				b = binary.AppendVarint(b, at.Sec)
				b = binary.AppendUvarint(b, uint64(at.Nsec))
			}
		}
	}
	return b
}

// DecodeIntents is the reverse of AppendIntents.
func DecodeIntents(b []byte) ([]Intent, error) {
	if len(b) == 0 || b[0] != intentsVersion {
		return nil, fmt.Errorf("%w: not of version %d", errIntents, intentsVersion)
	}
	b = b[1:]
	bad := false
	uvarint := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	uvarint32 := func() uint32 {
		v := uvarint()
		bad = bad || v > 1<<32-1
		return uint32(v)
	}
	at := func() Time {
		sec, n := binary.Varint(b)
		if n <= 0 {
			bad, b = true, nil
			return Time{}
		}
		b = b[n:]
		t := Time{Sec: sec, Nsec: uvarint32()}
		bad = bad || t.Nsec >= 1e9
		return t
	}
	var list []Intent
	for len(b) > 0 {
		t := Intent{Ino: Ino(uvarint()), Off: uvarint(), Len: uvarint32(), Start: uvarint32(), Seq: uvarint(), Prev: uvarint()}
		if len(b) == 0 {
			return nil, errIntents
		}
		has := b[0]
		b = b[1:]
		if has&intentMtime != 0 {
			t.Mtime = at()
		}
		if has&intentCtime != 0 {
			t.Ctime = at()
		}
		if bad || has&^(intentMtime|intentCtime) != 0 || t.Ino == 0 || t.Len == 0 || t.Seq == 0 {
			return nil, errIntents
		}
		list = append(list, t)
	}
	return list, nil
}
