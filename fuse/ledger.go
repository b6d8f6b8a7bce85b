package fuse

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"dfs"
	"dfs/client"

	"golang.org/x/sys/unix"
)

// Ledger is what the process that serves a mount leaves to the one that takes the mount
// over when it dies: memory that a third process keeps. It says how the kernel was
// spoken to, which sessions there are, which files programs have open, whether bytes of
// them are not committed, and which inodes the kernel may have attributes or listings of. What is in
// it was stored before the kernel was answered, and is never waited for.
type Ledger struct {
	mem   []byte
	mu    sync.Mutex
	free  []int // +checklocks:mu — slots of files that are unused
	slots int   // +checklocks:mu — slots below this have been used
}

// The layout of a ledger. Both processes may be of different versions: the version
// changes with the layout, and what is of another one is not taken over.
const (
	ledgerMagic    = 0x6466734c45444731 // "dfsLEDG1"
	ledgerSessions = 64                 // offset; as many as sessionsKept
	ledgerInit     = 512                // offset of the kernel's INIT: length, bytes
	ledgerReply    = 1024               // offset of what it was answered: length, bytes
	ledgerTextMax  = 500
	ledgerFiles    = 4096
	filesKept      = 64 << 10
	fileRecord     = 40 // handle, inode, OPEN's number, flags, uid, gid, state
	ledgerKnown    = ledgerFiles + filesKept*fileRecord
	inodesKnown    = 256 << 10 // a power of two
	ledgerBytes    = ledgerKnown + 8*inodesKnown

	sessionsKept = 32
)

// Words of the head, as offsets.
const (
	headMagic   = 0
	headTurn    = 8  // how many processes have served
	headMounted = 16 // INIT has been answered
	headRoot    = 24 // the inode that is the mount's root
	headPending = 32 // changes of names and attributes are in the memory of the process only
)

// Bits of a file's state.
const (
	fileUsed   = 1
	fileDirty  = 2
	fileLocked = 4 // locks were set through it, which end with the session
)

// NewLedger makes the memory. The file is to be kept open as long as the mount is there.
func NewLedger() (*os.File, error) {
	fd, err := unix.MemfdCreate("dfs-mount", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the mount's state: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ledger")
	if err := f.Truncate(ledgerBytes); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory for the mount's state: %w", err)
	}
	return f, nil
}

// OpenLedger maps it. One process at a time may do so.
func OpenLedger(f *os.File) (*Ledger, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the mount's state: %w", err)
	}
	if st.Size() != ledgerBytes {
		return nil, fmt.Errorf("%w: its state is of another version", ErrTakeover)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, ledgerBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("the mount's state: %w", err)
	}
	l := &Ledger{mem: mem}
	if magic := l.word(headMagic); magic.Load() == 0 {
		magic.Store(ledgerMagic)
	} else if magic.Load() != ledgerMagic {
		return nil, fmt.Errorf("%w: its state is of another version", ErrTakeover)
	}
	l.word(headTurn).Add(1)
	return l, nil
}

func (l *Ledger) word(off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&l.mem[off]))
}

func (l *Ledger) half(off int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&l.mem[off]))
}

// Mounted reports whether a process before this one served the mount.
func (l *Ledger) Mounted() bool { return l.word(headMounted).Load() != 0 }

// Root is the inode that the mount shows as its root, wherever it was moved since.
func (l *Ledger) Root() dfs.Ino { return dfs.Ino(l.word(headRoot).Load()) }

// Pending notes whether changes of names and attributes would be lost with this process.
func (l *Ledger) Pending(is bool) {
	v := uint64(0)
	if is {
		v = 1
	}
	l.word(headPending).Store(v)
}

// pending reports whether such changes were lost with the process before, and nobody has
// been told.
func (l *Ledger) pending() bool { return l.word(headPending).Load() != 0 }

// firstHandle is where this process begins to count handles: those of processes before
// are others.
func (l *Ledger) firstHandle() uint64 { return l.word(headTurn).Load() << 40 }

func (l *Ledger) text(off int) []byte {
	n := min(l.word(off).Load(), ledgerTextMax-8)
	return append([]byte(nil), l.mem[off+8:off+8+int(n)]...)
}

func (l *Ledger) setText(off int, b []byte) error {
	if len(b) > ledgerTextMax-8 {
		return fmt.Errorf("a message of %d bytes at the start of the mount", len(b))
	}
	copy(l.mem[off+8:], b)
	l.word(off).Store(uint64(len(b)))
	return nil
}

// Session notes a session that is about to be used.
func (l *Ledger) Session(id dfs.SessionID) {
	for i := range sessionsKept {
		if l.word(ledgerSessions+8*i).CompareAndSwap(0, uint64(id)) {
			return
		}
	}
	// So many could not be ended; the oldest end by themselves.
	l.word(ledgerSessions).Store(uint64(id))
}

// ended takes a session out.
func (l *Ledger) ended(id dfs.SessionID) {
	for i := range sessionsKept {
		l.word(ledgerSessions+8*i).CompareAndSwap(uint64(id), 0)
	}
}

// sessionsBut lists the sessions of processes before.
func (l *Ledger) sessionsBut(id dfs.SessionID) []dfs.SessionID {
	var ids []dfs.SessionID
	for i := range sessionsKept {
		if s := dfs.SessionID(l.word(ledgerSessions + 8*i).Load()); s != 0 && s != id {
			ids = append(ids, s)
		}
	}
	return ids
}

// openFile is a file that a program has open.
type openFile struct {
	slot   int
	handle uint64
	unique uint64 // of the request that opened it
	client.Adopted
}

// add notes an open file, and returns its slot; -1 when there is none left, and the file
// does not outlive the process.
func (l *Ledger) add(o *openFile) int {
	l.mu.Lock()
	slot := -1
	if n := len(l.free); n > 0 {
		slot, l.free = l.free[n-1], l.free[:n-1]
	} else if l.slots < filesKept {
		slot = l.slots
		l.slots++
	}
	l.mu.Unlock()
	if slot < 0 {
		return -1
	}
	at := ledgerFiles + slot*fileRecord
	l.word(at).Store(o.handle)
	l.word(at + 8).Store(uint64(o.Ino))
	l.word(at + 16).Store(o.unique)
	l.half(at + 24).Store(o.Flags)
	l.half(at + 28).Store(o.Cred.UID)
	l.half(at + 32).Store(o.Cred.GID)
	l.half(at + 36).Store(fileUsed)
	return slot
}

// remove frees a slot.
func (l *Ledger) remove(slot int) {
	if slot < 0 {
		return
	}
	l.half(ledgerFiles + slot*fileRecord + 36).Store(0)
	l.mu.Lock()
	l.free = append(l.free, slot)
	l.mu.Unlock()
}

// mark sets or clears a bit of a file's state.
func (l *Ledger) mark(slot int, bit uint32, is bool) {
	if slot < 0 {
		return
	}
	if state := l.half(ledgerFiles + slot*fileRecord + 36); is {
		state.Or(bit)
	} else {
		state.And(^bit)
	}
}

// files lists what processes before have left open.
func (l *Ledger) files() []openFile {
	var all []openFile
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free, l.slots = nil, filesKept
	for slot := filesKept - 1; slot >= 0; slot-- {
		at := ledgerFiles + slot*fileRecord
		state := l.half(at + 36).Load()
		if state == 0 {
			l.free = append(l.free, slot)
			continue
		}
		all = append(all, openFile{slot: slot, handle: l.word(at).Load(), unique: l.word(at + 16).Load(), Adopted: client.Adopted{
			Ino: dfs.Ino(l.word(at + 8).Load()), Flags: l.half(at + 24).Load(), Lost: state&(fileDirty|fileLocked) != 0,
			Cred: dfs.Cred{UID: l.half(at + 28).Load(), GID: l.half(at + 32).Load(), Checked: true},
		}})
	}
	return all
}

// listedNode is the bit by which the ledger tells a folder that the kernel may have listed
// from one of which it may have attributes: both are in it.
const listedNode = 1 << 63

// known notes that the kernel may keep attributes of a node, or its listing. It returns what
// was in its place, which the kernel has to be made to forget; 0: nothing.
func (l *Ledger) known(node uint64) (evicted uint64) {
	w := l.word(ledgerKnown + 8*int(node*0x9e3779b97f4a7c15>>(64-18)))
	if w.Load() == node {
		return 0
	}
	return w.Swap(node)
}

// allKnown lists and forgets those.
func (l *Ledger) allKnown(fn func(node uint64)) {
	for i := range inodesKnown {
		if w := l.word(ledgerKnown + 8*i); w.Load() != 0 {
			fn(w.Swap(0))
		}
	}
}

// uniqueOf is the number of a request that the kernel had sent to a process before, too.
func uniqueOf(unique uint64) (first uint64, again bool) {
	return unique &^ resent, unique&resent != 0
}

// resent is the bit in a request's number that says so (FUSE_UNIQUE_RESEND).
const resent = 1 << 63

// notification builds a message to the kernel that has no body.
func notification(code uint32) []byte {
	msg := make([]byte, notifyHeaderLen) // struct fuse_out_header: length, code, unique 0
	binary.NativeEndian.PutUint32(msg, notifyHeaderLen)
	binary.NativeEndian.PutUint32(msg[4:], code)
	return msg
}
