package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"dfs"
	"dfs/chunk/record"
)

func goodRecord() record.Header {
	data := bytes.Repeat([]byte("data"), 3000)
	return record.Header{
		Chunk: dfs.MakeChunkID(dfs.DefaultLayout, 42), Session: 7, Offset: 8192, Fragment: 1,
		RecordLen: uint32(len(data)), Len: uint32(len(data)), Epoch: 3, CRCs: dfs.PageCRCs(nil, data),
	}
}

// withIntents is a record that says what it is part of.
func withIntents(n int) record.Header {
	h := goodRecord()
	h.Intents = bytes.Repeat([]byte("intent"), n/6+1)[:n]
	return h
}

func encodeRecord(h record.Header) []byte {
	b := make([]byte, dfs.PageBytes)
	h.Encode(b)
	return b
}

// The bytes on disk never change under one version.
func TestFormatsNeverChange(t *testing.T) {
	id := dfs.MakeChunkID(dfs.DefaultLayout, 42)
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"header": {encodeHeader(header{Chunk: id, Fragment: 2, Session: 7, Cluster: 9})[:headerBytes],
			"6466736368756e6b01000000020000002a00000000000a00070000000000000009000000000000000000000000000000000000000000000000000000d5be559b"},
		"seal": {encodeMark(sealMagic, id, 12288), "6466732d7365616c01000000003000002a00000000000a0000000000a3a6aa69"},
		"record": {encodeRecord(goodRecord())[:76],
			"64667372010000002a00000000000a0007000000000000000020000001000000e02e0000e02e000003000000000000008d7b7d9300000000000000000d623239010c1ee5010c1ee5690e9fd0"},
		"record with intents": {encodeRecord(withIntents(6))[48:64], "8d7b7d9306000000ff052b1b7f2064c6"},
		"name":                {[]byte(shardName(id) + "/" + fragmentName(id, 2)), fmt.Sprintf("%x", "2a/000a00000000002a.2")},
	} {
		if got := fmt.Sprintf("%x", c.got); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
}

func TestFormatsRoundTrip(t *testing.T) {
	h := header{Chunk: dfs.MakeChunkID(dfs.DefaultLayout, 42), Fragment: 2, Session: 7, Cluster: 9}
	if got, err := decodeHeader(encodeHeader(h)); err != nil || got != h {
		t.Errorf("header: %+v, %v", got, err)
	}
	block := make([]byte, dfs.PageBytes)
	if _, sealed, err := decodeMark(block, sealOff, sealMagic, h.Chunk); sealed || err != nil {
		t.Errorf("no seal: %v, %v", sealed, err)
	}
	copy(block[sealOff:], encodeMark(sealMagic, h.Chunk, 12288))
	if end, sealed, err := decodeMark(block, sealOff, sealMagic, h.Chunk); end != 12288 || !sealed || err != nil {
		t.Errorf("seal: %d, %v, %v", end, sealed, err)
	}
	if _, sealed, err := decodeMark(block, sealOff, scanMagic, h.Chunk); !sealed || err == nil {
		t.Errorf("seal taken for another mark: %v, %v", sealed, err)
	}
	if _, sealed, err := decodeMark(block, sealOff, sealMagic, h.Chunk+1); !sealed || err == nil {
		t.Errorf("seal of another chunk: %v, %v", sealed, err)
	}
	r := goodRecord()
	if got, err := record.Decode(encodeRecord(r), r.Offset); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("record: %+v, %v", got, err)
	}
	for _, n := range []int{1, 100, dfs.IntentRoom(int(r.Len))} {
		r := withIntents(n)
		b := encodeRecord(r)
		if got, err := record.Decode(b, r.Offset); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("record with %d bytes of intents: %+v, %v", n, got, err)
		}
		b[len(b)-1] ^= 1
		if _, err := record.Decode(b, r.Offset); !errors.Is(err, record.ErrFormat) {
			t.Errorf("record with damaged intents: %v", err)
		}
		if _, err := record.Decode(b[:2048], r.Offset); !errors.Is(err, record.ErrFormat) {
			t.Errorf("record whose intents are cut off: %v", err)
		}
	}
	if _, err := record.Decode(encodeRecord(withIntents(dfs.IntentRoom(int(r.Len))+1)), r.Offset); !errors.Is(err, record.ErrFormat) {
		t.Errorf("record with too many intents: %v", err)
	}
	if _, err := record.Decode(encodeRecord(r), r.Offset+4096); !errors.Is(err, record.ErrFormat) {
		t.Errorf("record at another place: %v", err)
	}
	i := identity{Cluster: 1, Node: 2, Disk: 3}
	if got, err := decodeIdentity(encodeIdentity(i)); err != nil || got.Cluster != 1 || got.Node != 2 || got.Disk != 3 {
		t.Errorf("identity: %+v, %v", got, err)
	}
}

func TestNewerFormatsAreToldFromGarbage(t *testing.T) {
	newer := func(b []byte, off int) []byte {
		b[off]++
		return b
	}
	_, err := decodeHeader(newer(encodeHeader(header{Chunk: dfs.MakeChunkID(dfs.DefaultLayout, 1)}), 8))
	if !errors.Is(err, record.ErrTooNew) {
		t.Errorf("header: %v", err)
	}
	if _, err = record.Decode(newer(encodeRecord(goodRecord()), 4), 8192); !errors.Is(err, record.ErrTooNew) {
		t.Errorf("record: %v", err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(encodeHeader(header{Chunk: dfs.MakeChunkID(dfs.DefaultLayout, 42), Fragment: 2, Session: 7, Cluster: 9}), uint64(42))
	f.Add([]byte("dfschunk"), uint64(0))
	f.Add(append(make([]byte, sealOff), encodeMark(sealMagic, 1, 8192)...), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, id uint64) {
		if h, err := decodeHeader(b); err == nil && !bytes.Equal(encodeHeader(h)[:52], b[:52]) && bytes.Count(b[40:60], []byte{0}) == 20 {
			t.Fatalf("%+v is encoded differently", h)
		}
		if end, sealed, err := decodeMark(b, sealOff, sealMagic, dfs.ChunkID(id)); err == nil && sealed && (end < dfs.FirstRecord || end > dfs.ChunkBytes) {
			t.Fatalf("sealed at %d", end)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(goodRecord()), uint32(8192))
	f.Add(encodeRecord(goodRecord())[:70], uint32(8192))
	f.Add(encodeRecord(withIntents(50)), uint32(8192))
	f.Add([]byte("rsfd"), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, off uint32) {
		h, err := record.Decode(b, off)
		if err != nil {
			return
		}
		if h.Offset != off || len(h.CRCs) != dfs.Pages(int(h.Len)) || h.Len > dfs.FragmentBytes ||
			len(h.Intents) > dfs.IntentRoom(int(h.Len)) {
			t.Fatalf("took %+v", h)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add(encodeIdentity(identity{Cluster: 1, Node: 2, Disk: 3}))
	f.Add([]byte(`{"format":1,"role":"chunk","cluster":"1","node":"2","disk":"3"}`))
	f.Add([]byte(`{"format":9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := decodeIdentity(b)
		if err != nil {
			return
		}
		again, err := decodeIdentity(encodeIdentity(i))
		if err != nil || again.Node != i.Node || again.Cluster != i.Cluster || again.Disk != i.Disk {
			t.Fatalf("%+v became %+v: %v", i, again, err)
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("000a00000000002a.2")
	f.Add("000a00000000002a.9")
	f.Add("x.y")
	f.Fuzz(func(t *testing.T, name string) {
		id, fragment, ok := parseName(name)
		if ok && fragmentName(id, fragment) != name {
			t.Fatalf("%q is also %q", name, fragmentName(id, fragment))
		}
	})
}
