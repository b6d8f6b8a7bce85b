package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta"
	"dfs/meta/replica"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of the transport.
const (
	peerQueueMax      = 512                    // batches of messages to one master that wait; more are dropped
	peersMax          = 64                     // masters that are known
	redialAfter       = 100 * time.Millisecond // between streams to a master that does not take one
	snapshotPartBytes = 1 << 20
	snapshotFilesMax  = 1 << 20
)

// Metadata that a stream of messages begins with: who sends, and where he is. A
// master that has no state yet learns from it whom to answer.
const (
	fromKey = "dfs-raft-node"
	addrKey = "dfs-raft-addr"
	// And which format level he understands; who does not say knows level 1.
	levelKey = "dfs-raft-level"
)

// transport carries Raft's messages: one stream to each master, in order, and
// never in the way of the goroutine that runs Raft.
type transport struct {
	s      *Server
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ready  chan struct{} // closed by open

	dropped atomic.Int64 // batches that a full queue did not take

	mu    sync.Mutex
	addrs map[dfs.NodeID]string  // +checklocks:mu
	peers map[dfs.NodeID]*peer   // +checklocks:mu
	heard map[dfs.NodeID]*uint32 // +checklocks:mu — levels of those whose messages come in now
}

var _ replica.Transport = (*transport)(nil)

// peer is another master and the messages to it.
type peer struct {
	id    dfs.NodeID
	queue chan []*replica.Message
	lost  atomic.Bool // the queue was full

	stream  atomic.Pointer[metapb.Raft_MessagesClient] // nil while there is none
	waiting atomic.Int32                               // batches in queue or being sent
}

// now sends messages without waiting, as far as that keeps their order. What is left
// has to be queued.
func (p *peer) now(messages []*replica.Message) (left []*replica.Message) {
	out := p.stream.Load()
	for out != nil && len(messages) > 0 && p.waiting.Load() == 0 {
		data, err := proto.Marshal(messages[0])
		if err != nil {
			return messages // it happens again where it ends the stream
		}
		taken, part, err := rpc.SendNow(*out, &metapb.RaftMessage{To: uint64(p.id), Data: data})
		if !taken || err != nil {
			return messages
		}
		messages = messages[1:]
		if part {
			return append([]*replica.Message{nil}, messages...) // to flush
		}
	}
	return messages
}

func newTransport(s *Server) *transport {
	t := &transport{s: s, ready: make(chan struct{}), addrs: map[dfs.NodeID]string{}, peers: map[dfs.NodeID]*peer{}, heard: map[dfs.NodeID]*uint32{}}
	t.ctx, t.cancel = context.WithCancel(s.ctx)
	return t
}

// open lets messages go out, once Server.node is there: the replica begins to send
// before its Start has returned.
func (t *transport) open() {
	t.refresh()
	close(t.ready)
}

// learn remembers where a master is.
func (t *transport) learn(id dfs.NodeID, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id == 0 || addr == "" || id == t.s.id.Node {
		return
	}
	if _, known := t.addrs[id]; known || len(t.addrs) < peersMax {
		t.addrs[id] = addr
	}
}

// addrOf is where a master is; empty when that is not known.
func (t *transport) addrOf(id dfs.NodeID) string {
	if id == t.s.id.Node {
		return t.s.addr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addrs[id]
}

// refresh learns the masters that the state names.
func (t *transport) refresh() {
	var masters []meta.Master
	err := t.s.node.LocalRead(func(v meta.View) (err error) {
		masters, err = v.Masters()
		return err
	})
	if err != nil {
		t.s.logger.Warn("cannot read the list of masters", "err", err)
		return
	}
	for _, m := range masters {
		t.learn(m.ID, m.Addr)
	}
}

// Send implements replica.Transport.
func (t *transport) Send(messages []*replica.Message) {
	if t.s.gone() {
		return
	}
	for len(messages) > 0 {
		to := messages[0].GetTo()
		n := 1
		for n < len(messages) && messages[n].GetTo() == to {
			n++
		}
		if p := t.peer(dfs.NodeID(to)); p != nil {
			if left := p.now(messages[:n:n]); len(left) > 0 {
				t.enqueue(p, left)
			}
		}
		messages = messages[n:]
	}
}

func (t *transport) enqueue(p *peer, messages []*replica.Message) {
	p.waiting.Add(1)
	select {
	case p.queue <- messages:
	default: // raft sends again
		p.waiting.Add(-1)
		p.lost.Store(true)
		t.dropped.Add(1)
	}
}

func (t *transport) peer(id dfs.NodeID) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil && t.ctx.Err() == nil && len(t.peers) < peersMax {
		p = &peer{id: id, queue: make(chan []*replica.Message, peerQueueMax)}
		t.peers[id] = p
		t.wg.Go(func() { t.run(p) })
	}
	return p
}

func (t *transport) close() {
	t.cancel()
	t.wg.Wait()
}

// run keeps a stream to a master, and sends what is queued.
func (t *transport) run(p *peer) {
	select {
	case <-t.ready:
	case <-t.ctx.Done():
		return
	}
	for t.ctx.Err() == nil {
		err := t.stream(p)
		if t.ctx.Err() != nil {
			return
		}
		t.s.logger.Debug("no stream to a master", "node", p.id, "err", err)
		t.s.node.Unreachable(p.id)
		t.refresh() // it may have moved
		select {
		case <-time.After(redialAfter):
		case <-t.ctx.Done():
		}
		p.drain()
	}
}

// queued is how many batches wait.
func (t *transport) queued() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, p := range t.peers {
		n += len(p.queue)
	}
	return n
}

func (p *peer) drain() {
	for range peerQueueMax {
		select {
		case <-p.queue:
			p.waiting.Add(-1)
		default:
			return
		}
	}
}

var errUnknownMaster = errors.New("its address is not known")

func (t *transport) client(id dfs.NodeID) (metapb.RaftClient, error) {
	addr := t.addrOf(id)
	if addr == "" {
		return nil, errUnknownMaster
	}
	conn, err := t.s.pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	return metapb.NewRaftClient(conn), nil
}

func (t *transport) stream(p *peer) error {
	client, err := t.client(p.id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.signed(t.ctx))
	defer cancel()
	out, err := client.Messages(ctx)
	if err != nil {
		return err
	}
	// The other end says nothing until it closes.
	closed := make(chan error, 1)
	t.wg.Go(func() { closed <- out.RecvMsg(&metapb.RaftDone{}) })
	p.stream.Store(&out)
	defer p.stream.Store(nil)
	for {
		select {
		case messages := <-p.queue:
			if p.lost.Swap(false) {
				t.s.node.Unreachable(p.id)
			}
			err := p.send(out, messages)
			p.waiting.Add(-1)
			if err != nil {
				cancel()
				return errors.Join(err, <-closed)
			}
		case err := <-closed:
			return err
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

func (p *peer) send(out metapb.Raft_MessagesClient, messages []*replica.Message) error {
	for _, m := range messages {
		if m == nil {
			if err := rpc.Flush(out); err != nil {
				return err
			}
			continue
		}
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := out.Send(&metapb.RaftMessage{To: uint64(p.id), Data: data}); err != nil {
			return err
		}
	}
	return nil
}

func (t *transport) signed(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, fromKey, strconv.FormatUint(uint64(t.s.id.Node), 16), addrKey, t.s.addr,
		levelKey, strconv.FormatUint(uint64(t.s.cfg.Level), 10))
}

// hear learns from a stream's metadata who sends.
func (t *transport) hear(ctx context.Context) {
	from, addr := metadata.ValueFromIncomingContext(ctx, fromKey), metadata.ValueFromIncomingContext(ctx, addrKey)
	if len(from) != 1 || len(addr) != 1 {
		return
	}
	// What the masters wrote down is not put aside by what a caller says of himself.
	if id, err := strconv.ParseUint(from[0], 16, 64); err == nil && t.addrOf(dfs.NodeID(id)) == "" {
		t.learn(dfs.NodeID(id), addr[0])
	}
}

// levels notes which level the sender of a stream understands, until forget. A program
// that takes another's place begins a stream of its own.
func (t *transport) levels(ctx context.Context) (forget func()) {
	var from, level uint64 = 0, 1
	if v := metadata.ValueFromIncomingContext(ctx, fromKey); len(v) == 1 {
		from, _ = strconv.ParseUint(v[0], 16, 64) // 0 is nobody
	}
	if v := metadata.ValueFromIncomingContext(ctx, levelKey); len(v) == 1 {
		if n, err := strconv.ParseUint(v[0], 10, 32); err == nil {
			level = n
		}
	}
	id, mine := dfs.NodeID(from), uint32(level)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.heard[id]; known || len(t.heard) < peersMax {
		t.heard[id] = &mine
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.heard[id] == &mine {
			delete(t.heard, id)
		}
	}
}

// levelOf is which level a master understands, as it says itself; 0 while it is not
// heard.
func (t *transport) levelOf(id dfs.NodeID) uint32 {
	if id == t.s.id.Node {
		return t.s.cfg.Level
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if level := t.heard[id]; level != nil {
		return *level
	}
	return 0
}

// Messages takes another master's messages.
func (s *Server) Messages(in metapb.Raft_MessagesServer) error {
	s.transport.hear(in.Context())
	defer s.transport.levels(in.Context())()
	for {
		m, err := in.Recv()
		if err != nil {
			return endOfStream(err)
		}
		if dfs.NodeID(m.To) != s.id.Node {
			return status.Errorf(codes.NotFound, "this is master %v, not %v", s.id.Node, dfs.NodeID(m.To))
		}
		var message replica.Message
		err = proto.Unmarshal(m.Data, &message)
		rpc.Free(m.Data)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "raft message: %v", err)
		}
		if s.gone() {
			continue // lost
		}
		if replica.IsSnapshot(&message) {
			return status.Error(codes.InvalidArgument, "a snapshot does not travel as a message")
		}
		s.node.Step(&message)
	}
}

func endOfStream(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// SendSnapshot implements replica.Transport.
func (t *transport) SendSnapshot(ctx context.Context, m *replica.Message, dir string) error {
	client, err := t.client(dfs.NodeID(m.GetTo()))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.signed(ctx))
	defer cancel()
	out, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	message, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	send := func(p *metapb.SnapshotPart) error {
		if err := out.Send(p); err != nil {
			_, cause := out.CloseAndRecv()
			return errors.Join(err, cause)
		}
		return nil
	}
	if err := send(&metapb.SnapshotPart{To: m.GetTo(), Message: message}); err != nil {
		return err
	}
	files, err := t.s.cfg.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Dir {
			continue
		}
		if err := sendFile(t.s.cfg.FS, filepath.Join(dir, f.Name), f.Name, send); err != nil {
			return err
		}
	}
	if err := send(&metapb.SnapshotPart{Last: true}); err != nil {
		return err
	}
	_, err = out.CloseAndRecv()
	return err
}

func sendFile(fs disk.FS, path, name string, send func(*metapb.SnapshotPart) error) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	off := int64(0)
	for first := true; ; first = false {
		data := make([]byte, snapshotPartBytes) // gRPC keeps it until it is sent
		n, err := f.ReadAt(data, off)
		off += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 && !first {
			return nil
		}
		part := &metapb.SnapshotPart{Data: data[:n], Crc: dfs.CRC(data[:n])}
		if first {
			part.File = name
		}
		if err := send(part); err != nil {
			return err
		}
		if n < len(data) {
			return nil
		}
	}
}

// Snapshot takes a checkpoint from the leader and installs it.
func (s *Server) Snapshot(in metapb.Raft_SnapshotServer) error {
	s.transport.hear(in.Context())
	first, err := in.Recv()
	if err != nil {
		return endOfStream(err)
	}
	if dfs.NodeID(first.To) != s.id.Node {
		return status.Errorf(codes.NotFound, "this is master %v, not %v", s.id.Node, dfs.NodeID(first.To))
	}
	var message replica.Message
	if err := proto.Unmarshal(first.Message, &message); err != nil {
		return status.Errorf(codes.InvalidArgument, "raft message: %v", err)
	}
	fill := func(dir string) error { return receiveFiles(s.cfg.FS, in, dir) }
	if err := s.node.ReceiveSnapshot(in.Context(), &message, fill); err != nil {
		return status.Errorf(codes.Aborted, "snapshot: %v", err)
	}
	s.transport.refresh()
	return in.SendAndClose(&metapb.RaftDone{})
}

// receiveFiles writes what comes into dir, and syncs it.
func receiveFiles(fs disk.FS, in metapb.Raft_SnapshotServer, dir string) (err error) {
	var file disk.File
	off := int64(0) // in it
	finish := func() error {
		if file == nil {
			return nil
		}
		f := file
		file = nil
		return errors.Join(f.Sync(), f.Close())
	}
	defer func() { err = errors.Join(err, finish()) }()
	for files := 0; ; {
		part, err := in.Recv()
		if err != nil {
			return fmt.Errorf("it ended before its last part: %w", err)
		}
		if part.Last {
			if err := finish(); err != nil {
				return err
			}
			return fs.SyncDir(dir)
		}
		if dfs.CRC(part.Data) != part.Crc {
			return fmt.Errorf("a part was damaged on the way: %w", dfs.EIO)
		}
		if part.File != "" {
			// A name from outside must not leave the folder.
			if files++; files > snapshotFilesMax || part.File != filepath.Base(part.File) || part.File == "." || part.File == ".." {
				return fmt.Errorf("file name %q: %w", part.File, dfs.EINVAL)
			}
			if err := finish(); err != nil {
				return err
			}
			if file, err = fs.OpenFile(filepath.Join(dir, part.File), os.O_CREATE|os.O_EXCL|os.O_RDWR); err != nil {
				return err
			}
			off = 0
		}
		if file == nil {
			return fmt.Errorf("bytes before a file's name: %w", dfs.EINVAL)
		}
		_, err = file.WriteAt(part.Data, off)
		off += int64(len(part.Data))
		rpc.Free(part.Data)
		if err != nil {
			return err
		}
	}
}
