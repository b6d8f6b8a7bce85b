package replica

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"go.etcd.io/raft/v3"

	"dfs"
	"dfs/meta"
)

// proposal is commands whose caller waits.
type proposal struct {
	commands []meta.Command
	term     uint64 // in which it is to be made; 0: any
	bytes    int
	once     sync.Once     // a node that stops may finish what raft's goroutine finishes too
	done     chan struct{} // closed once replies or err are there
	replies  []meta.Reply
	err      error
}

func (p *proposal) finish(replies []meta.Reply, err error) {
	p.once.Do(func() {
		p.replies, p.err = replies, err
		close(p.done)
	})
}

// Propose makes one change and waits until it is applied here. The error is a
// *NotLeaderError, a *meta.LevelError, or says that the outcome is not known: then the same command,
// with the same session and sequence, may be proposed again, anywhere.
func (n *Node) Propose(ctx context.Context, c meta.Command) (meta.Reply, error) {
	replies, err := n.ProposeAll(ctx, []meta.Command{c})
	if err != nil {
		return meta.Reply{}, err
	}
	return replies[0], nil
}

// ProposeAll makes changes in order, all in one entry of the log.
func (n *Node) ProposeAll(ctx context.Context, commands []meta.Command) ([]meta.Reply, error) {
	return n.ProposeIn(ctx, 0, commands)
}

// ProposeIn is ProposeAll for who knows only of one term that the changes may be made; 0: any.
func (n *Node) ProposeIn(ctx context.Context, term uint64, commands []meta.Command) ([]meta.Reply, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	if s := n.Status(); !s.Leading {
		return nil, &NotLeaderError{Leader: s.Leader}
	}
	if err := n.permitted(commands); err != nil {
		return nil, err
	}
	p := &proposal{commands: commands, term: term, bytes: weight(commands), done: make(chan struct{})}
	select {
	case n.proposals <- p:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.ctx.Done():
		return nil, ErrStopped
	}
	select {
	case <-p.done:
		return p.replies, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.ctx.Done():
		return nil, ErrStopped
	}
}

// weight is about how many bytes commands take in the log.
func weight(commands []meta.Command) int {
	n := 0
	for i := range commands {
		n += 128 + 5*len(commands[i].Cred.Groups)
		switch op := commands[i].Op.(type) {
		case *meta.Commit:
			n += 256 * len(op.Chunks)
			for _, f := range op.Files {
				n += 64 + 40*len(f.Extents)
			}
		case *meta.SetXattr:
			n += len(op.Name) + len(op.Value)
		case *meta.Create:
			n += len(op.Name) + len(op.Target)
		case *meta.Rename:
			n += len(op.Name) + len(op.NewName)
		case *meta.PutMap:
			n += 128*len(op.Servers) + 64*len(op.Acting)
		}
	}
	return n
}

// propose joins the proposals that wait in one entry.
func (n *Node) propose(first *proposal) {
	if n.outdated(first) {
		return
	}
	batch := []*proposal{first}
	commands, bytes := slices.Clone(first.commands), first.bytes // their times are set
	for len(commands) < batchCommandsMax && bytes < batchBytesMax {
		select {
		case p := <-n.proposals:
			if n.outdated(p) {
				continue
			}
			batch = append(batch, p)
			commands = append(commands, p.commands...)
			bytes += p.bytes
			continue
		default:
		}
		break
	}
	if err := n.proposeBatch(batch, commands); err != nil {
		for _, p := range batch {
			p.finish(nil, err)
		}
	}
}

// outdated fails a proposal whose term is over.
func (n *Node) outdated(p *proposal) bool {
	s := n.Status()
	if p.term == 0 || p.term == s.Term {
		return false
	}
	p.finish(nil, &NotLeaderError{Leader: s.Leader})
	return true
}

func (n *Node) proposeBatch(batch []*proposal, commands []meta.Command) error {
	if s := n.Status(); !s.Leading {
		return &NotLeaderError{Leader: s.Leader}
	}
	// In the order of the log no command is earlier than the one before it, whatever
	// the clocks of this leader and the last one say: a ctime never goes back. Changes
	// that were made under a lease come later than they were made; the client that
	// holds the lease sees to their order.
	n.stamped = later(n.stamped, n.storage.position.Load().Time)
	for i := range commands {
		n.stamped = later(n.stamped, commands[i].Time)
		if !commands[i].Told {
			commands[i].Time = n.stamped
		}
	}
	id := rand.Uint64()
	data, err := encodeBatch(id, commands)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.waiting[id] = batch
	n.mu.Unlock()
	err = n.raft.Propose(data)
	if err == nil {
		return nil
	}
	n.mu.Lock()
	_, waits := n.waiting[id]
	delete(n.waiting, id)
	n.mu.Unlock()
	if !waits {
		return nil // the node stops meanwhile, and has answered them
	}
	if errors.Is(err, raft.ErrProposalDropped) {
		return ErrBusy // or a transfer of leadership is under way
	}
	return err
}

func later(a, b dfs.Time) dfs.Time {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

// answer gives a batch's callers their replies.
func (n *Node) answer(id uint64, replies []meta.Reply) {
	n.mu.Lock()
	batch := n.waiting[id]
	delete(n.waiting, id)
	n.mu.Unlock()
	for _, p := range batch {
		p.finish(replies[:len(p.commands):len(p.commands)], nil)
		replies = replies[len(p.commands):]
	}
}

// failWaiting ends all callers' waiting.
func (n *Node) failWaiting(err error) {
	n.mu.Lock()
	waiting := n.waiting
	n.waiting = map[uint64][]*proposal{}
	n.mu.Unlock()
	for _, batch := range waiting {
		for _, p := range batch {
			p.finish(nil, err)
		}
	}
	for {
		select {
		case p := <-n.proposals:
			p.finish(nil, err)
		default:
			return
		}
	}
}
