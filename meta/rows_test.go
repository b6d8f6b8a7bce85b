package meta

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"dfs"
)

// decoders are all rows: each decodes, and encodes again what it got.
var decoders = map[string]func(b []byte) ([]byte, error){
	"inode": func(b []byte) ([]byte, error) {
		in, err := decodeInode(5, b)
		if err != nil {
			return nil, err
		}
		return in.encode(nil), nil
	},
	"dentry": func(b []byte) ([]byte, error) {
		list, err := decodeDentries(b)
		return encodeDentries(nil, list), err
	},
	"extent": func(b []byte) ([]byte, error) {
		e, err := decodeExtent(100, b)
		return encodeExtent(nil, e), err
	},
	"chunk": func(b []byte) ([]byte, error) {
		c, err := decodeChunk(b)
		if err != nil {
			return nil, err
		}
		return c.encode(nil), nil
	},
	"session": func(b []byte) ([]byte, error) {
		s, err := decodeSession(3, b)
		if err != nil {
			return nil, err
		}
		return encodeSession(nil, s), nil
	},
	"tally": func(b []byte) ([]byte, error) {
		v, err := decodeTally(b)
		if err != nil {
			return nil, err
		}
		return v.encode(nil), nil
	},
	"counters": func(b []byte) ([]byte, error) {
		v, err := decodeCounters(b)
		return v.encode(nil), err
	},
	"cluster": func(b []byte) ([]byte, error) {
		v, err := decodeCluster(b)
		return v.encode(nil), err
	},
	"server": func(b []byte) ([]byte, error) {
		v, err := decodeServer(3, b)
		return encodeServer(nil, &v), err
	},
	"home": func(b []byte) ([]byte, error) {
		v, err := decodeHome(b)
		return encodeHome(nil, v), err
	},
	"number": func(b []byte) ([]byte, error) {
		v, err := decodeNumber("nonce", b)
		return encodeNumber(nil, v), err
	},
	"job": func(b []byte) ([]byte, error) {
		j, err := decodeJob(3, b)
		return j.encode(nil), err
	},
	"master": func(b []byte) ([]byte, error) {
		v, err := decodeMaster(3, b)
		return encodeMaster(nil, v), err
	},
	"xattr": func(b []byte) ([]byte, error) {
		v, err := decodeXattr(b)
		return append([]byte{rowVersion}, v...), err
	},
	"locks": func(b []byte) ([]byte, error) {
		ls, err := decodeLocks(b)
		return encodeLocks(nil, ls), err
	},
	"reply": func(b []byte) ([]byte, error) {
		r, err := decodeReply(b)
		return encodeReply(nil, &r), err
	},
}

func samples() map[string][][]byte {
	t := dfs.Time{Sec: -5, Nsec: 999_999_999}
	full := inode{
		Attr: dfs.Attr{Ino: 5, Mode: dfs.TypeLink | 0o777, Nlink: 1, UID: 1, GID: 1<<32 - 1, Rdev: 3, Layout: dfs.DefaultLayout, Size: 4,
			Alloc: 1 << 60, Atime: t, Mtime: dfs.Time{Sec: 1}, Ctime: dfs.Time{Sec: 1 << 40}, Btime: dfs.Time{Nsec: 1}, Change: 9, Flags: 1, XattrBytes: 12},
		parent: 1, body: 77, target: "link", writer: writer{3, 1 << 40},
	}
	s := Session{Nonce: 1 << 63, Host: "h", Mountpoint: "/m", Version: "v", Opened: t}
	reply := Reply{Errno: dfs.ENOENT, Attr: &full.Attr, Existed: true, StaleMap: true, Session: 3, Inodes: Range{1, 2}, Chunks: Range{3, 4},
		Orphaned: []dfs.Ino{1, 2}, Skipped: []dfs.Ino{3}, Reaped: []dfs.Ino{4}, More: true, Dropped: []dfs.ChunkID{testChunk(4)}, Epoch: 7, Token: 8, Copied: 1 << 40}
	return map[string][][]byte{
		"inode":   {full.encode(nil), (&inode{Attr: dfs.Attr{Mode: dfs.TypeFile}}).encode(nil)},
		"dentry":  {encodeDentries(nil, []dentry{{"a", 1, dfs.TypeDir, 0}, {strings.Repeat("n", 255), 1 << 50, dfs.TypeSocket, 255}})},
		"extent":  {encodeExtent(nil, dfs.Extent{Off: 100, Len: 10, Chunk: testChunk(1), Record: 4096, RecordLen: 20, Start: 10})},
		"chunk":   {(&chunk{owner: 3, present: 7, epoch: 2, committed: 8192, live: 1 << 40, sealed: true}).encode(nil)},
		"session": {encodeSession(nil, &s)},
		"tally": {
			(&tally{1, 2, counts{-1, 2, -3, 1 << 50}, []Range{{1, 5}, {9, 10}}, []Range{{1, 1 << 48}}, 0, false}).encode(nil),
			(&tally{1, 2, counts{-1, 2, -3, 1 << 50}, nil, nil, dfs.ReadOnly | dfs.SquashRoot, false}).encode(nil),
			(&tally{1, 2, counts{}, nil, nil, 0, true}).encode(nil),
		},
		"counters": {(&counters{1, 2, 3, 4, counts{-1, 2, -3, 1 << 50}}).encode(nil)},
		"cluster":  {(&cluster{id: 7, buckets: 1024, epoch: 3}).encode(nil), (&cluster{id: 7, buckets: 1024, epoch: 3, level: 2, program: "p"}).encode(nil)},
		"server":   {encodeServer(nil, &dfs.Server{ID: 3, Name: "n", Addr: "a:1", Host: "h", Zone: "z", Weight: 9, State: dfs.ServerDrain})},
		"home":     {encodeHome(nil, []position{{1, 2}, {0, 0}, {1 << 63, 9}})},
		"number":   {encodeNumber(nil, 1<<63)},
		"master":   {encodeMaster(nil, Master{Name: "m", Addr: "a:1"})},
		"job": {
			(&Job{Revision: 1, Kind: JobConvert, State: JobRuns, Ino: 1 << 48, Path: "/a"}).encode(nil),
			(&Job{Revision: 1 << 40, Kind: JobConvert, State: JobFailed, Ino: 9, Layout: dfs.DefaultLayout, Started: t, Ended: t, Counted: true,
				Total: 1 << 50, Bytes: 1, Left: 2, Folders: 3, Files: 4, Changed: 5, Skipped: 6, Places: []Place{{1, 1 << 62}, {2, 0}}, Error: "e"}).encode(nil),
		},
		"xattr": {{rowVersion}, append([]byte{rowVersion}, "value"...)},
		"locks": {encodeLocks(nil, dfs.Locks{
			{Kind: dfs.LockBytes, Type: dfs.LockShared, Owner: 1 << 63, File: 3, Start: 1, End: dfs.LockEnd, PID: 77, Mount: true},
			{Kind: dfs.LockName, Type: dfs.LockAlone, Owner: 1, End: dfs.LockEnd, Token: 9, Name: "n"},
		})},
		"reply": {encodeReply(nil, &reply), encodeReply(nil, &Reply{})},
	}
}

func TestRowsSurviveTheirCodec(t *testing.T) {
	for name, list := range samples() {
		for _, b := range list {
			again, err := decoders[name](b)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %x became %x, %v", name, b, again, err)
			}
			for i := range b {
				if again, err := decoders[name](b[:i]); err == nil && bytes.Equal(again, b) {
					t.Errorf("%s: cut at %d is read as the whole", name, i)
				}
			}
		}
	}
}

func TestReplySurvivesItsCodec(t *testing.T) {
	want := Reply{Errno: dfs.EEXIST, Attr: &dfs.Attr{Ino: 9, Mode: dfs.TypeFile | 0o644, Nlink: 2, Size: 10, Mtime: dfs.Time{Sec: 4}},
		Existed: true, Orphaned: []dfs.Ino{3}, Dropped: []dfs.ChunkID{testChunk(1)}, Inodes: Range{4, 9}, Epoch: 3}
	got, err := decodeReply(encodeReply(nil, &want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestUnknownRowVersionIsAClearError(t *testing.T) {
	for name, list := range samples() {
		b := bytes.Clone(list[0])
		b[0] = 9
		_, err := decoders[name](b)
		if err == nil || !strings.Contains(err.Error(), "format version 9") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRows: no bytes make a decoder panic, and what it accepts has one meaning.
func FuzzRows(f *testing.F) {
	for name, list := range samples() {
		for _, b := range list {
			f.Add(name, b)
		}
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		decode := decoders[name]
		if decode == nil {
			return
		}
		first, err := decode(b)
		if err != nil {
			return
		}
		second, err := decode(first)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s: %x was read, written as %x, read, and written as %x (%v)", name, b, first, second, err)
		}
	})
}

func TestKeysKeepTheOrderOfNumbers(t *testing.T) {
	for _, pair := range [][2][]byte{
		{key1(kindInode, 1), key1(kindInode, 256)},
		{key1(kindInode, 1<<64-1), after(kindInode, 1<<64-1)},
		{key2(kindExtent, 1, 1<<64-1), after(kindExtent, 1)},
		{after(kindExtent, 1), key2(kindExtent, 2, 1)},
		{xattrKey(7, "user.\xff\xff"), after(kindXattr, 7)},
	} {
		if bytes.Compare(pair[0], pair[1]) >= 0 {
			t.Errorf("%x is not before %x", pair[0], pair[1])
		}
	}
	if number(key2(kindReply, 3, 4), 1) != 4 || number(key2(kindReply, 3, 4), 0) != 3 {
		t.Error("numbers do not come out of a key as they went in")
	}
}

// TestNameHashIsFixed: the hash is part of the disk format.
func TestNameHashIsFixed(t *testing.T) {
	for name, want := range map[string]uint64{"a": 0x654bc089650dde, "Makefile": 0x3b7683a54982e0} {
		if got := hashName(name); got != want {
			t.Errorf("%q: %#x, want %#x", name, got, want)
		}
	}
}
