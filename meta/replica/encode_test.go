package replica

import (
	"fmt"
	"reflect"
	"testing"

	"dfs"
	"dfs/meta"
)

// operations is one of each, for fill.
var operations = []meta.Op{
	&meta.Create{}, &meta.Link{}, &meta.Unlink{}, &meta.Rmdir{}, &meta.Rename{}, &meta.SetAttr{}, &meta.SetXattr{}, &meta.RemoveXattr{},
	&meta.Commit{}, &meta.SetPolicy{}, &meta.GrantIDs{}, &meta.OpenSession{}, &meta.CloseSession{}, &meta.Reap{}, &meta.DropChunks{}, &meta.Replay{},
	&meta.Access{}, &meta.SetPresent{}, &meta.Fallocate{}, &meta.CopyRange{},
	&meta.Bootstrap{}, &meta.PutMap{}, &meta.PutMaster{}, &meta.RemoveMaster{}, &meta.SetLevel{}, &meta.SetConfig{}, &meta.PutJob{},
}

// fill sets each field to a value of its own, so that one which is forgotten or
// swapped on the way shows.
func fill(v reflect.Value, next *uint64) {
	*next++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), next)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), next)
		}
	case reflect.String:
		v.SetString(fmt.Sprint(*next))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(*next % 200)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*next)
	case reflect.Int64:
		v.SetInt(int64(*next))
	default:
		panic("fill: " + v.Kind().String())
	}
}

func TestEveryFieldOfEveryOperationIsInTheLog(t *testing.T) {
	for _, op := range operations {
		for _, filled := range []bool{false, true} {
			v := reflect.New(reflect.TypeOf(op).Elem())
			c := meta.Command{Op: v.Interface().(meta.Op)}
			if filled {
				next := uint64(0)
				fill(v.Elem(), &next)
				c.Session, c.Seq, c.Acked, c.Time = 1, 2, 3, dfs.Time{Sec: 4, Nsec: 5}
				c.Cred = dfs.Cred{UID: 6, GID: 7, Groups: []uint32{8, 9}, Checked: true}
			}
			b, err := encodeBatch(11, []meta.Command{c})
			if err != nil {
				t.Fatalf("%T: %v", op, err)
			}
			id, got, err := decodeBatch(b, 1<<31)
			if err != nil || id != 11 || len(got) != 1 {
				t.Fatalf("%T: id %d, %d commands, %v", op, id, len(got), err)
			}
			if !reflect.DeepEqual(got[0], c) {
				t.Errorf("%T: wrote %+v, read %+v", op, c.Op, got[0].Op)
			}
		}
	}
}

func TestLaterFormatIsRefused(t *testing.T) {
	for _, version := range []byte{0, 3} {
		if _, _, err := decodeBatch([]byte{8, version}, 2); err == nil {
			t.Fatalf("version %d was taken", version)
		}
	}
	for level, op := range map[uint32]meta.Op{1: &meta.RemoveMaster{}, 3: &meta.PutJob{}, 4: &meta.SetLevel{Level: 4}} {
		b, err := encodeBatch(1, []meta.Command{{Op: &meta.Reap{}}, {Op: op}})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decodeBatch(b, level); err != nil {
			t.Errorf("level %d: %v", level, err)
		}
		if _, _, err := decodeBatch(b, level-1); err == nil {
			t.Errorf("a batch of level %d was taken below it", level)
		}
	}
}
