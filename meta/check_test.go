package meta

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"dfs"
)

// TestCheckFindsDamage damages a sound table row by row.
func TestCheckFindsDamage(t *testing.T) {
	sound := func() *bench {
		b := newBench(t)
		churn(b, 1, 400)
		b.do(&Create{Parent: 1, Name: "file", Ino: 4000, Mode: dfs.TypeFile | 0o644})
		b.do(&SetXattr{Ino: 4000, Name: "user.x"})
		b.do(&Create{Parent: 1, Name: "orphan", Ino: 4001, Mode: dfs.TypeFile | 0o644})
		b.do(&Unlink{Parent: 1, Name: "orphan"})
		chunks := b.do(&GrantIDs{Chunks: true}).Chunks
		b.do(&Commit{Chunks: []ChunkCommit{
			{Chunk: testChunk(chunks.From), Servers: allThree(), Sealed: true}, // droppable
			{Chunk: testChunk(chunks.From + 1), Servers: allThree()},
		}})
		b.check()
		return b
	}
	b := sound()
	kinds := make(map[byte]int)
	var keys [][]byte
	b.table.rows.Ascend(func(r row) bool {
		if kinds[r.k[0]]++; kinds[r.k[0]] <= 40 {
			keys = append(keys, r.k)
		}
		return true
	})
	for _, kind := range []byte("ABCDEGHILNOQRSTUVX") {
		if kinds[kind] == 0 {
			t.Errorf("the history leaves no row of kind %c", kind)
		}
	}
	for _, k := range keys {
		v, err := b.table.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.table.Set(k, []byte{rowVersion + 1, 0, 0}); err != nil {
			t.Fatal(err)
		}
		if strings.IndexByte("LOQU", k[0]) < 0 && len(check(b.view())) == 0 { // rows whose key says all
			t.Errorf("an unreadable row %q is not found", k)
		}
		if err := b.table.Delete(k); err != nil {
			t.Fatal(err)
		}
		// Not missed: the cluster (there is then nothing to check), a kept answer, a layout in use.
		if strings.IndexByte("ARL", k[0]) < 0 && !(k[0] == kindHome) && len(check(b.view())) == 0 {
			t.Errorf("a missing row %q is not found", k)
		}
		if err := b.table.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	b.check()
	if err := b.table.Set([]byte("Zebra"), markerRow); err != nil {
		t.Fatal(err)
	}
	if len(Check(b.table)) != 1 {
		t.Error("a row of no known kind is not found")
	}
}

func TestProblemsSayWhatTheyAreAbout(t *testing.T) {
	for _, p := range []Problem{{Ino: 5, Text: "x"}, {Chunk: 5, Text: "x"}, {Text: "x"}} {
		if s := p.String(); !strings.HasSuffix(s, "x") || (len(s) > 1) != (p.Ino+dfs.Ino(p.Chunk) > 0) {
			t.Error(s)
		}
	}
}

// TestCheckOfManyInodesTakesLittleMemory: of each it keeps a few numbers, which are found by
// search, and damage is found wherever it is.
func TestCheckOfManyInodesTakesLittleMemory(t *testing.T) {
	if size := reflect.TypeFor[facts]().Size(); size > 112 {
		t.Errorf("%d bytes for each inode, at most 112 are wanted", size)
	}
	b := newBench(t)
	const files = 2*factsSlab + 10
	var all []uint64
	for left := (Range{}); len(all) < files; left.From++ {
		if left.From == left.To {
			left = b.do(&GrantIDs{Inodes: true}).Inodes
		}
		b.do(&Create{Parent: 1, Name: fmt.Sprint(left.From), Ino: dfs.Ino(left.From), Mode: dfs.TypeFile | 0o644})
		all = append(all, left.From)
	}
	b.check()
	for _, i := range []int{0, 1, factsSlab - 2, factsSlab - 1, factsSlab, factsSlab + 1, files - 1} {
		k := key1(kindInode, all[i])
		v, err := b.table.Get(k)
		if err != nil || v == nil {
			t.Fatalf("inode %d: %x, %v", all[i], v, err)
		}
		if err := b.table.Delete(k); err != nil {
			t.Fatal(err)
		}
		found := check(b.view())
		if !slices.ContainsFunc(found, func(p Problem) bool {
			return strings.Contains(p.Text, fmt.Sprintf("inode %d, which has no row", all[i]))
		}) {
			t.Errorf("that inode %d is gone is not found: %v", all[i], found)
		}
		if err := b.table.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
}
