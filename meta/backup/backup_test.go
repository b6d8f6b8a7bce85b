package backup

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dfs/meta"
)

// rows is a table of rows in order.
type rows [][2]string

func (r rows) Get(key []byte) ([]byte, error) {
	for _, row := range r {
		if row[0] == string(key) {
			return []byte(row[1]), nil
		}
	}
	return nil, nil
}

func (r rows) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	for _, row := range r {
		if row[0] >= string(lo) && row[0] < string(hi) {
			if more, err := fn([]byte(row[0]), []byte(row[1])); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

func (r rows) Last(_, _ []byte) (k, v []byte, err error) { return nil, nil, nil }

func write(t *testing.T, r rows) ([]byte, Tail) {
	t.Helper()
	var b bytes.Buffer
	tail, err := Write(&b, Head{Index: 7, Term: 3, Made: time.Unix(1, 0).UTC(), Program: "v"}, r)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), tail
}

func read(b []byte) (got rows, head Head, tail Tail, err error) {
	tail, err = Read(bytes.NewReader(b), func(h Head) error { head = h; return nil }, func(k, v []byte) error {
		got = append(got, [2]string{string(k), string(v)})
		return nil
	})
	return got, head, tail, err
}

func TestBackupHasAllRowsOfManyBlocks(t *testing.T) {
	var want rows
	for i := range 100 {
		want = append(want, [2]string{fmt.Sprintf("X%04d", i), strings.Repeat("v", 1+i*i*40)})
	}
	b, wrote := write(t, want)
	if len(b) < 2*blockBytes {
		t.Fatalf("%d bytes are not many blocks", len(b))
	}
	got, head, tail, err := read(b)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || tail != wrote || head.Index != 7 || head.Level != 1 {
		t.Errorf("%d rows of %d, %+v, %+v, %v", len(got), len(want), head, tail, err)
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	b, _ := write(t, rows{{"Xa", "1"}, {"Xb", "2"}})
	for i := range b {
		if _, _, _, err := read(b[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, _, err := read(bad); err == nil {
			t.Errorf("byte %d was changed and nobody saw it", i)
		}
	}
	if _, _, _, err := read(append(bytes.Clone(b), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestLaterBackupIsRefused(t *testing.T) {
	for _, h := range []Head{{Format: formatName, Version: formatVersion + 1, Program: "v9.9"}, {Format: formatName, Version: formatVersion, Level: meta.Level + 1, Program: "v9.9"}} {
		var b bytes.Buffer
		if err := writeLine(&b, h); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := read(b.Bytes()); err == nil || !strings.Contains(err.Error(), "v9.9") {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

// FuzzRead: no bytes make it panic.
func FuzzRead(f *testing.F) {
	f.Add([]byte("{}\n00000000\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _, _ = read(b) })
}
