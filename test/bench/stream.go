package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

const (
	mib       = 1 << 20
	page      = 4096
	seedBytes = 0x64667300 // any number: the same data in each run
)

// A stream has one large file, written once and read in several ways.
func streamGroups() []group {
	return []group{
		{name: "stream", steps: []step{
			{name: "seq-write", unit: "MB", doing: seqWrite},
			{name: "seq-read-warm", unit: "MB", doing: seqRead},
			{name: "seq-read-cold", unit: "MB", cold: true, doing: seqRead},
			{name: "rand-read-4k", unit: "read", cold: true, doing: randRead},
		}},
		{name: "sync", start: preparePages, steps: []step{
			{name: "fdatasync-4k", unit: "write", doing: syncWrites},
		}},
	}
}

func (b *bench) streamBytes() int64 { return int64(b.size(512, 64)) * mib }

// fill makes a buffer whose pages differ, cannot be compressed, and begin with
// their number in the file.
func fill(buf []byte, rng *rand.ChaCha8, off int64) {
	_, _ = rng.Read(buf)
	for p := 0; p < len(buf); p += page {
		binary.LittleEndian.PutUint64(buf[p:], uint64(off)/page+uint64(p)/page)
	}
}

func newRand() *rand.ChaCha8 {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], seedBytes)
	return rand.NewChaCha8(seed)
}

// checkPages compares the number that each page begins with.
func checkPages(buf []byte, off int64) error {
	for p := 0; p < len(buf); p += page {
		if got, want := binary.LittleEndian.Uint64(buf[p:]), uint64(off)/page+uint64(p)/page; got != want {
			return fmt.Errorf("page %d has the contents of page %d", want, got)
		}
	}
	return nil
}

func seqWrite(_ context.Context, b *bench, _ any) (float64, error) {
	f, err := os.Create(b.path("stream"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// The same MiB again and again, but for the numbers: making data must not be
	// what is measured.
	buf := make([]byte, mib)
	fill(buf, newRand(), 0)
	for off := int64(0); off < b.streamBytes(); off += mib {
		for p := 0; p < mib; p += page {
			binary.LittleEndian.PutUint64(buf[p:], uint64(off)/page+uint64(p)/page)
		}
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return float64(b.streamBytes()) / 1e6, f.Close()
}

func seqRead(_ context.Context, b *bench, _ any) (float64, error) {
	f, err := os.Open(b.path("stream"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, mib)
	for off := int64(0); off < b.streamBytes(); off += mib {
		if _, err := io.ReadFull(f, buf); err != nil {
			return 0, err
		}
		if err := checkPages(buf, off); err != nil {
			return 0, err
		}
	}
	return float64(b.streamBytes()) / 1e6, nil
}

func randRead(_ context.Context, b *bench, _ any) (float64, error) {
	f, err := os.Open(b.path("stream"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	rng := rand.New(newRand())
	buf := make([]byte, page)
	n := b.size(4000, 500)
	for range n {
		off := rng.Int64N(b.streamBytes()/page) * page
		if _, err := f.ReadAt(buf, off); err != nil {
			return 0, err
		}
		if err := checkPages(buf, off); err != nil {
			return 0, err
		}
	}
	return float64(n), nil
}

const syncFileBytes = 4 * mib

// preparePages writes the file that syncWrites overwrites: a database's log or
// table, not a file that grows.
func preparePages(_ context.Context, b *bench) (any, error) {
	buf := make([]byte, syncFileBytes)
	fill(buf, newRand(), 0)
	f, err := os.Create(b.path("pages"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(buf); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return nil, f.Close()
}

func syncWrites(_ context.Context, b *bench, _ any) (float64, error) {
	f, err := os.OpenFile(b.path("pages"), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, page)
	fill(buf, newRand(), 0)
	n := b.size(2000, 300)
	for i := range n {
		if _, err := f.WriteAt(buf, int64(i)*page%syncFileBytes); err != nil {
			return 0, err
		}
		if err := fdatasync(f); err != nil {
			return 0, err
		}
	}
	return float64(n), nil
}
