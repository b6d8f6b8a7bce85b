package dfs

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func drawTime(t *rapid.T) Time {
	return Time{Sec: rapid.Int64().Draw(t, "sec"), Nsec: rapid.Uint32Range(0, 1e9-1).Draw(t, "nsec")}
}

func TestIntentsAreDecodedAsTheyWereEncoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Intent {
			return Intent{
				Ino: Ino(rapid.Uint64Min(1).Draw(t, "ino")), Off: rapid.Uint64().Draw(t, "off"), Len: rapid.Uint32Min(1).Draw(t, "len"),
				Start: rapid.Uint32().Draw(t, "start"), Mtime: drawTime(t), Ctime: drawTime(t),
				Seq: rapid.Uint64Min(1).Draw(t, "seq"), Prev: rapid.Uint64().Draw(t, "prev"),
			}
		})).Draw(t, "intents")
		b := AppendIntents(nil, list)
		got, err := DecodeIntents(b)
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("%v became %v: %v", list, got, err)
		}
	})
}

func FuzzDecodeIntents(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendIntents(nil, []Intent{{Ino: 7, Off: 4096, Len: 5, Seq: 3, Prev: 2, Ctime: Time{Sec: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := DecodeIntents(b)
		if err != nil {
			return
		}
		again, err := DecodeIntents(AppendIntents(nil, list))
		if err != nil || !slices.Equal(again, list) {
			t.Fatalf("%v became %v: %v", list, again, err)
		}
		if len(list) == 0 && !bytes.Equal(b, []byte{intentsVersion}) {
			t.Fatalf("%x was decoded as no intents", b)
		}
	})
}
