package replica

import (
	"sync"

	"dfs"
	"dfs/meta"
	"dfs/meta/store"
)

// followMax is how many changes are kept for one who does not take them.
const followMax = 1 << 20

// Follower gathers what the applied commands change of where chunks are.
type Follower struct {
	n *Node

	mu     sync.Mutex
	chunks map[dfs.ChunkID]struct{} // +checklocks:mu
	groups map[dfs.PG]struct{}      // +checklocks:mu
	moved  bool                     // +checklocks:mu — the map is another one
	all    bool                     // +checklocks:mu — it is not known what has changed
}

// Follow begins to gather. What was applied before is visible to any read that begins
// after it; what comes later is gathered before its proposer is answered. It ends with Close.
func (n *Node) Follow() *Follower {
	f := &Follower{n: n, chunks: map[dfs.ChunkID]struct{}{}, groups: map[dfs.PG]struct{}{}}
	n.followMu.Lock()
	defer n.followMu.Unlock()
	if n.followers == nil {
		n.followers = map[*Follower]struct{}{}
	}
	n.followers[f] = struct{}{}
	return f
}

// Close ends it.
func (f *Follower) Close() {
	f.n.followMu.Lock()
	defer f.n.followMu.Unlock()
	delete(f.n.followers, f)
}

// Take answers what has changed since the last call, each thing once: at least all that who
// calls it has read of the rows. all says that
// everything may have: the rows came from a snapshot, or too much has changed.
func (f *Follower) Take() (c meta.Changes, all bool) {
	f.n.followMu.Lock()
	defer f.n.followMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	c.Map, all = f.moved, f.all
	for id := range f.chunks {
		c.Chunks = append(c.Chunks, id)
	}
	for pg := range f.groups {
		c.Groups = append(c.Groups, pg)
	}
	f.chunks, f.groups, f.moved, f.all = map[dfs.ChunkID]struct{}{}, map[dfs.PG]struct{}{}, false, false
	return c, all
}

// commit makes rows visible and hands what they change to those who gather it, without
// anybody taking between the two: who has read the rows then takes their changes too.
func (n *Node) commit(b *store.Batch, p store.Position, c *meta.Changes) error {
	if c.Empty() {
		return n.store.Commit(b, p)
	}
	n.followMu.Lock()
	defer n.followMu.Unlock()
	if err := n.store.Commit(b, p); err != nil {
		return err
	}
	n.tellLocked(c, false)
	return nil
}

func (n *Node) tell(c *meta.Changes, all bool) {
	n.followMu.Lock()
	defer n.followMu.Unlock()
	n.tellLocked(c, all)
}

// +checklocks:n.followMu
func (n *Node) tellLocked(c *meta.Changes, all bool) {
	for f := range n.followers {
		f.add(c, all)
	}
}

func (f *Follower) add(c *meta.Changes, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = f.moved || c.Map
	f.all = f.all || all || len(f.chunks) > followMax
	if f.all {
		clear(f.chunks)
		clear(f.groups)
		return
	}
	for _, id := range c.Chunks {
		f.chunks[id] = struct{}{}
	}
	for _, pg := range c.Groups {
		f.groups[pg] = struct{}{}
	}
}
