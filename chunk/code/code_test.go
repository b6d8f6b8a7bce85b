package code_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"dfs"
	"dfs/chunk/code"
)

func payload(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func layout(t testing.TB, text string) dfs.Layout {
	t.Helper()
	l, err := dfs.ParseLayout(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEverySubsetOfLossesDecodes(t *testing.T) {
	for _, text := range []string{"copies=1", "copies=3", "copies=5", "ec=2+1", "ec=4+2", "ec=5+3", "ec=8+4"} {
		l := layout(t, text)
		for _, n := range []int{1, 2, 7, 4095, 4096, 4097, 50001} {
			p := payload(n)
			fragments, err := code.Encode(l, p)
			if err != nil {
				t.Fatal(err)
			}
			if len(fragments) != l.Width() {
				t.Fatalf("%s: %d fragments", l, len(fragments))
			}
			for i, f := range fragments {
				if len(f.Data) != code.FragmentLen(l, n) || code.CheckPages(0, f.Data, f.CRCs) != nil {
					t.Fatalf("%s of %d bytes: fragment %d has %d bytes or wrong checksums", l, n, i, len(f.Data))
				}
			}
			for lost := range 1 << l.Width() {
				have := make([][]byte, l.Width())
				for i, f := range fragments {
					if lost>>i&1 == 0 {
						have[i] = f.Data
					}
				}
				got, err := code.Decode(l, n, have)
				if bits.OnesCount(uint(lost)) > l.Parity() {
					if err == nil {
						t.Fatalf("%s: decoded with fragments %b lost", l, lost)
					}
					continue
				}
				if err != nil || !bytes.Equal(got, p) {
					t.Fatalf("%s of %d bytes with fragments %b lost: %v", l, n, lost, err)
				}
				if n > 10 && n < 5000 {
					continue // rebuilding is the same for them
				}
				for i := range have {
					if have[i] != nil {
						continue
					}
					f, err := code.Rebuild(l, have, i)
					if err != nil || !bytes.Equal(f, fragments[i].Data) {
						t.Fatalf("%s of %d bytes with fragments %b lost: fragment %d: %v", l, n, lost, i, err)
					}
				}
			}
			if !bytes.Equal(p, payload(n)) {
				t.Fatal("the payload was changed")
			}
		}
	}
}

// The bytes of parity are a disk format.
func TestParityNeverChanges(t *testing.T) {
	fragments, err := code.Encode(layout(t, "ec=4+2"), []byte("the quick brown fox jumps over the lazy dog"))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%x %x", fragments[4].Data, fragments[5].Data)
	if want := "ca5865a6be4a2439fe2fa4 e8b059ca6a11b50cadaeac"; got != want {
		t.Fatalf("parity is %s, want %s", got, want)
	}
}

func TestRecordSpace(t *testing.T) {
	for _, c := range []struct{ payload, head, space int }{
		{1, 68, 4096}, {4028, 68, 4096}, {4029, 4096, 8192}, {4096, 4096, 8192}, {4097, 4096, 12288},
		{1 << 20, 4096, 4096 + 1<<20}, {1<<20 - 1, 4096, 4096 + 1<<20},
	} {
		if head, space := dfs.RecordHead(c.payload), code.RecordSpace(c.payload); head != c.head || space != c.space {
			t.Errorf("payload of %d: head %d and space %d, want %d and %d", c.payload, head, space, c.head, c.space)
		}
	}
}

func TestPageChecksumsFindEveryFlip(t *testing.T) {
	p := payload(9000)
	crcs := code.PageCRCs(nil, p)
	if len(crcs) != 3 || crcs[2] != code.CRC(p[8192:]) {
		t.Fatalf("%d checksums", len(crcs))
	}
	for i := 0; i < len(p); i += 97 {
		p[i] ^= 1 << (i % 8)
		if err := code.CheckPages(0, p, crcs); !errors.Is(err, dfs.EIO) {
			t.Fatalf("flip at %d: %v", i, err)
		}
		p[i] ^= 1 << (i % 8)
	}
	if err := code.CheckPages(0, p, crcs); err != nil {
		t.Fatal(err)
	}
	if err := code.CheckPages(0, p, crcs[:2]); !errors.Is(err, dfs.EIO) {
		t.Fatalf("too few checksums: %v", err)
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	l := layout(t, "ec=2+1")
	for name, err := range map[string]error{
		"no layout":     second(code.Encode(0, payload(1))),
		"no payload":    second(code.Encode(l, nil)),
		"huge payload":  second(code.Encode(l, make([]byte, dfs.RecordBytes+1))),
		"few fragments": second(code.Decode(l, 4, [][]byte{{1, 2}})),
		"wrong length":  second(code.Decode(l, 4, [][]byte{{1}, {1, 2}, nil})),
		"no length":     second(code.Decode(l, 0, make([][]byte, 3))),
		"no fragment":   second(code.Rebuild(l, make([][]byte, 3), 3)),
		"nothing left":  second(code.Rebuild(l, make([][]byte, 3), 0)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkEncode(b *testing.B) {
	for _, text := range []string{"copies=3", "ec=4+2"} {
		b.Run(text, func(b *testing.B) {
			l, p := layout(b, text), payload(1<<20)
			b.SetBytes(1 << 20)
			for b.Loop() {
				if _, err := code.Encode(l, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
