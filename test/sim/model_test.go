package sim

import (
	"slices"
	"testing"

	"dfs"
)

// The model must be able to condemn: each of these is what a cluster that loses or mixes
// something would show.
func TestModelCondemns(t *testing.T) {
	journal := func(list ...entry) (b []byte) {
		for _, e := range list {
			b = append(b, e.encode()...)
		}
		return b
	}
	one, two := entry{0, 1}, entry{1, 1}
	for name, x := range map[string]struct {
		right bool
		do    func(m *model, a, b *writer, th *thing)
	}{
		"read what is acknowledged": {true, func(m *model, a, b *writer, th *thing) {
			m.ack(th, m.begin(th), 0)
			m.saw(b, "x", th, m.look(th), 1, 1)
		}},
		"read what is older, and nothing is lost": {false, func(m *model, a, b *writer, th *thing) {
			m.ack(th, m.begin(th), 0)
			m.saw(b, "x", th, m.look(th), 0, 0)
		}},
		"read what is older, and the writer has lost it": {true, func(m *model, a, b *writer, th *thing) {
			m.ack(th, m.begin(th), 0)
			m.saw(b, "x", th, m.look(th), 0, 0)
			m.shake(a)
		}},
		"synced and lost": {false, func(m *model, a, b *writer, th *thing) {
			m.ack(th, m.begin(th), 0)
			m.synced(a, m.sync(a))
			m.shake(a)
			m.saw(b, "x", th, m.look(th), 0, 0)
		}},
		"seen and lost": {false, func(m *model, a, b *writer, th *thing) {
			m.ack(th, m.begin(th), 0)
			m.saw(b, "x", th, m.look(th), 1, 1)
			m.shake(a)
			m.saw(b, "x", th, m.look(th), 0, 0)
		}},
		"torn": {false, func(m *model, a, b *writer, th *thing) {
			m.begin(th)
			m.saw(b, "x", th, m.look(th), 0, 1)
		}},
		"what nobody wrote": {false, func(m *model, a, b *writer, th *thing) { m.saw(b, "x", th, m.look(th), 1, 1) }},
		"names of no state": {false, func(m *model, a, b *writer, th *thing) {
			m.beginNames(th, map[string]dfs.Ino{"a": 1})
			m.beginNames(th, map[string]dfs.Ino{"a": 1, "b": 2})
			m.sawNames(b, "x", th, m.look(th), map[string]dfs.Ino{"b": 2})
		}},
		"names of one state": {true, func(m *model, a, b *writer, th *thing) {
			m.beginNames(th, map[string]dfs.Ino{"a": 1})
			m.sawNames(b, "x", th, m.look(th), map[string]dfs.Ino{"a": 1})
		}},
		"journal": {true, func(m *model, a, b *writer, th *thing) {
			m.sawLog(a, m.logNow(), journal(one, two))
			m.sawLog(b, m.logNow(), journal(one, two))
		}},
		"record that is overwritten": {false, func(m *model, a, b *writer, th *thing) {
			m.sawLog(b, m.logNow(), journal(one))
			m.sawLog(b, m.logNow(), journal(two))
		}},
		"record that was seen and is gone": {false, func(m *model, a, b *writer, th *thing) {
			m.sawLog(b, m.logNow(), journal(one))
			m.sawLog(b, m.logNow(), nil)
		}},
		"record that was synced and is gone": {false, func(m *model, a, b *writer, th *thing) {
			m.appended(a, one, 0)
			era, list := m.logSyncing(a)
			m.logSynced(a, era, list)
			m.sawLog(b, m.logNow(), nil)
		}},
		"record twice":  {false, func(m *model, a, b *writer, th *thing) { m.sawLog(b, m.logNow(), journal(one, two, one)) }},
		"torn record":   {false, func(m *model, a, b *writer, th *thing) { m.sawLog(b, m.logNow(), make([]byte, entryBytes)) }},
		"half a record": {false, func(m *model, a, b *writer, th *thing) { m.sawLog(b, m.logNow(), journal(one)[:20]) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := &run{}
			r.logger = newLogger(&r.log)
			m := newModel(r)
			a, b := &writer{id: 0, name: "a"}, &writer{id: 1, name: "b"}
			th := m.add("x", a)
			th.states = map[int]map[string]dfs.Ino{0: {}}
			m.appending(one)
			m.appending(two)
			x.do(m, a, b, th)
			m.condemn()
			if x.right == r.failed() {
				t.Errorf("it is right: %v; the model says %q", x.right, r.verdict())
			}
		})
	}
}

// A cell tells of each word which state it is of.
func TestCellsTellTheirStates(t *testing.T) {
	old, late := content(1, 2, 3, 7, 64), content(1, 2, 3, 9, 64)
	mixed := slices.Concat(old[:32], late[32:])
	if least, most, wrong := states(1, 2, 3, mixed); least != 7 || most != 9 || wrong != 0 {
		t.Error(least, most, wrong)
	}
	if _, _, wrong := states(1, 2, 4, old); wrong == 0 {
		t.Error("a cell is taken for another one")
	}
}
