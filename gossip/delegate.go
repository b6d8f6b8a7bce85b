package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls, under its own lock.
type delegate struct{ n *Node }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
)

func (d delegate) NodeMeta(limit int) []byte {
	d.n.mu.Lock()
	defer d.n.mu.Unlock()
	b, err := encodeMeta(d.n.self)
	if err != nil || len(b) > limit {
		// Start has checked it, and only the figures change.
		d.n.logger.Error("gossip: own metadata cannot be sent", "err", err, "bytes", len(b))
		return nil
	}
	return b
}

func (d delegate) NotifyJoin(node *memberlist.Node)   { d.put(node, true) }
func (d delegate) NotifyUpdate(node *memberlist.Node) { d.put(node, true) }
func (d delegate) NotifyLeave(node *memberlist.Node)  { d.put(node, false) }

func (d delegate) put(node *memberlist.Node, alive bool) {
	m, err := decodeMeta(node.Meta)
	if err != nil {
		return // NotifyAlive has refused and logged it
	}
	n := d.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.ID == n.self.ID {
		return
	}
	r := n.members[m.ID]
	if r == nil {
		if len(n.members) >= membersMax {
			n.logger.Warn("gossip: too many members, one is ignored", "name", m.Name, "addr", m.Addr)
			return
		}
		r = &record{}
		n.members[m.ID] = r
	}
	m.Alive, m.Gossip = alive, node.Address()
	r.Member = m
	if !alive {
		r.died = time.Now()
	}
	n.signal(n.changes)
}

// NotifyAlive refuses nodes of other clusters and what cannot be read.
func (d delegate) NotifyAlive(peer *memberlist.Node) error { return d.accept(peer) }

// NotifyMerge refuses to exchange states with a node that knows nodes of another
// cluster.
func (d delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, p := range peers {
		if err := d.accept(p); err != nil {
			return err
		}
	}
	return nil
}

func (d delegate) accept(peer *memberlist.Node) error {
	m, err := decodeMeta(peer.Meta)
	if err != nil {
		return fmt.Errorf("node %s at %s: %w", peer.Name, peer.Address(), err)
	}
	d.n.mu.Lock()
	defer d.n.mu.Unlock()
	if m.Cluster != d.n.self.Cluster {
		return fmt.Errorf("node %s at %s is of cluster %s, we are of %s", m.Name, peer.Address(), m.Cluster, d.n.self.Cluster)
	}
	return nil
}

// NotifyConflict: two daemons run with the same data folder, or a copy of it.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.n.logger.Error("gossip: two daemons have the same id; was a data folder copied?",
		"id", existing.Name, "addr", existing.Address(), "other", other.Address())
}

// dfs sends no messages of its own by gossip.
func (d delegate) NotifyMsg([]byte)                {}
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d delegate) LocalState(bool) []byte          { return nil }
func (d delegate) MergeRemoteState([]byte, bool)   {}

// logWriter hands memberlist's lines to slog, one level lower than memberlist
// thinks of them: what looks like an error to it, a peer that is down, is its
// everyday work here.
type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	say := w.logger.Debug
	if rest, ok := bytes.CutPrefix(text, []byte("[ERR] ")); ok {
		text, say = rest, w.logger.Info
	}
	for _, prefix := range []string{"[WARN] ", "[DEBUG] ", "[INFO] "} {
		text = bytes.TrimPrefix(text, []byte(prefix))
	}
	say(string(text))
	return len(line), nil
}
