package meta

import (
	"fmt"
	"reflect"
	"strings"

	"dfs"
)

// rowKinds says of each kind of rows how it is called, and how it is read.
var rowKinds = map[byte]struct {
	name string
	read func(k, b []byte) (any, error)
}{
	kindCluster:   {"cluster", func(_, b []byte) (any, error) { return decodeCluster(b) }},
	kindCounters:  {"counters", func(_, b []byte) (any, error) { return decodeCounters(b) }},
	kindChunk:     {"chunk", func(_, b []byte) (any, error) { return decodeChunk(b) }},
	kindDentry:    {"dentry", func(_, b []byte) (any, error) { return decodeDentries(b) }},
	kindExtent:    {"extent", func(k, b []byte) (any, error) { return decodeExtent(number(k, 1), b) }},
	kindHome:      {"home", func(_, b []byte) (any, error) { return decodeHome(b) }},
	kindGroup:     {"group", decodeAny("group")},
	kindInode:     {"inode", func(k, b []byte) (any, error) { return decodeInode(dfs.Ino(number(k, 0)), b) }},
	kindLocked:    {"locked", decodeMarker},
	kindLock:      {"lock", func(_, b []byte) (any, error) { return decodeLocks(b) }},
	kindLayout:    {"layout", decodeMarker},
	kindMaster:    {"master", func(k, b []byte) (any, error) { return decodeMaster(dfs.NodeID(number(k, 0)), b) }},
	kindNonce:     {"nonce", decodeAny("nonce")},
	kindOrphan:    {"orphan", decodeMarker},
	kindDroppable: {"droppable", decodeMarker},
	kindToken:     {"token", decodeAny("token")},
	kindReply:     {"reply", func(_, b []byte) (any, error) { return decodeReply(b) }},
	kindSession:   {"session", func(k, b []byte) (any, error) { return decodeSession(dfs.SessionID(number(k, 0)), b) }},
	kindTally:     {"tally", func(_, b []byte) (any, error) { return decodeTally(b) }},
	kindUnsealed:  {"unsealed", decodeMarker},
	kindServer:    {"server", func(k, b []byte) (any, error) { return decodeServer(dfs.NodeID(number(k, 0)), b) }},
	kindSetting:   {"setting", func(_, b []byte) (any, error) { return decodeSetting(b) }},
	kindJob:       {"job", func(k, b []byte) (any, error) { return decodeJob(number(k, 0), b) }},
	kindXattr:     {"xattr", func(_, b []byte) (any, error) { return b[1:], nil }},
}

func decodeMarker(_, _ []byte) (any, error) { return nil, nil }

func decodeAny(what string) func(_, b []byte) (any, error) {
	return func(_, b []byte) (any, error) { return decodeNumber(what, b) }
}

// DumpedRow is a row for people to read.
type DumpedRow struct {
	Kind    string   `json:"kind"`
	Numbers []uint64 `json:"numbers,omitempty"` // of the key, see docs/formats.md
	Name    string   `json:"name,omitempty"`    // what follows them
	Value   any      `json:"value,omitempty"`
}

// Dump reads a row for people.
func Dump(k, b []byte) (DumpedRow, error) {
	kind, known := rowKinds[k[0]]
	if !known || len(b) == 0 {
		return DumpedRow{}, fmt.Errorf("meta: key %x is of no known kind", k)
	}
	r := DumpedRow{Kind: kind.name}
	rest := k[1:]
	if k[0] != kindSetting {
		for limit := 2; len(rest) >= 8 && limit > 0 && (k[0] != kindXattr || limit == 2); limit-- {
			r.Numbers = append(r.Numbers, number(append([]byte{0}, rest...), 0))
			rest = rest[8:]
		}
	}
	if k[0] == kindExtent && len(r.Numbers) != 2 || (k[0] == kindInode || k[0] == kindMaster || k[0] == kindSession || k[0] == kindServer || k[0] == kindJob) && len(r.Numbers) != 1 {
		return DumpedRow{}, fmt.Errorf("meta: key %x is too short", k)
	}
	r.Name = string(rest)
	value, err := kind.read(k, b)
	if err == nil && value != nil {
		r.Value = plain(reflect.ValueOf(value))
	}
	return r, err
}

// plain turns a value into what JSON can show, with the names that it has in the code;
// what is nothing is left out.
func plain(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				out[strings.ToLower(v.Type().Field(i).Name)] = plain(f)
			}
		}
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return string(v.Bytes())
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v.Uint()
	}
	return v.Kind().String()
}
