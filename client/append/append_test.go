package append

import (
	"testing"

	"pgregory.net/rapid"

	"dfs"
)

func drawPieces(rt *rapid.T) []*Piece {
	files := []*File{{ino: 1}, {ino: 2}, {ino: 3}}
	next := map[*File]int64{}
	var out []*Piece
	for range rapid.IntRange(1, 80).Draw(rt, "pieces") {
		f := rapid.SampledFrom(files).Draw(rt, "file")
		n := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 5000), rapid.Just(4096), rapid.IntRange(1, dfs.RecordBytes)).Draw(rt, "len")
		off := next[f]
		if rapid.Bool().Draw(rt, "jump") {
			off += 1 << 20
		}
		next[f] = off + int64(n)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(len(out) + i)
		}
		out = append(out, &Piece{file: f, Off: off, Data: b, Buffer: NewBuffer(b, nil)})
	}
	return out
}

func TestRecordsHoldEveryPieceAlignedAndNothingElse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		queue := drawPieces(rt)
		for len(queue) > 0 {
			n, length := gather(queue)
			if n < 1 || n > len(queue) || length < 1 || length > dfs.RecordBytes {
				rt.Fatalf("%d pieces, %d bytes", n, length)
			}
			r := &record{length: length, pieces: queue[:n]}
			end := 0
			for i, p := range r.pieces {
				p.Buffer.Hold()
				p.start = 0
				if i > 0 {
					p.start = place(end, r.pieces[i-1], p)
				}
				joins := i > 0 && r.pieces[i-1].file == p.file && r.pieces[i-1].Off+int64(len(r.pieces[i-1].Data)) == p.Off
				switch {
				case p.start < end:
					rt.Fatalf("piece %d overlaps the one before", i)
				case joins && p.start != end:
					rt.Fatalf("piece %d goes on in the file and not in the record", i)
				case !joins && len(p.Data) >= dfs.PageBytes && p.start%dfs.PageBytes != 0:
					rt.Fatalf("piece %d of %d bytes begins at %d", i, len(p.Data), p.start)
				case !joins && len(p.Data) < dfs.PageBytes && p.start/dfs.PageBytes != (p.start+len(p.Data)-1)/dfs.PageBytes:
					rt.Fatalf("piece %d of %d bytes at %d straddles two pages", i, len(p.Data), p.start)
				}
				end = p.start + len(p.Data)
			}
			if end != length {
				rt.Fatalf("pieces end at %d of %d", end, length)
			}
			if n == 1 {
				r.buffer = r.pieces[0].Buffer
			}
			payload := r.pack()
			used := make([]bool, length)
			for _, p := range r.pieces {
				if string(payload[p.start:p.start+len(p.Data)]) != string(p.Data) {
					rt.Fatal("a piece's bytes are others")
				}
				for i := range p.Data {
					used[p.start+i] = true
				}
			}
			for i, b := range payload {
				if !used[i] && b != 0 {
					rt.Fatalf("byte %d between the pieces is %x: it is somebody else's", i, b)
				}
			}
			queue = queue[n:]
		}
	})
}

func TestBufferIsFreedByTheLastHolder(t *testing.T) {
	freed := 0
	b := NewBuffer(make([]byte, 8), func(*Buffer) { freed++ })
	b.Hold()
	b.Drop()
	if freed != 0 {
		t.Fatal("freed while it was held")
	}
	b.Drop()
	if freed != 1 {
		t.Fatal("not freed")
	}
}
