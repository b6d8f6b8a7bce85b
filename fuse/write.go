package fuse

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Write hands bytes to the client, which copies them before it returns: data is
// go-fuse's buffer and is used again for the next request.
func (fs *fileSystem) Write(cancel <-chan struct{}, input *gofuse.WriteIn, data []byte) (written uint32, status gofuse.Status) {
	r := fs.begin(opWrite, cancel, &input.InHeader)
	defer r.end(&status)
	h := fs.file(input.Fh)
	if h == nil {
		return 0, gofuse.EBADF
	}
	if input.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 {
		if err := fs.killSuid(r, &input.InHeader, h); err != nil {
			return 0, r.status(err)
		}
	}
	var n int
	var err error
	if input.WriteFlags&gofuse.WRITE_CACHE != 0 {
		n, err = h.WriteMapped(r, data, int64(input.Offset))
	} else {
		n, err = h.WritePart(r, data, int64(input.Offset), h.goesOn(input))
	}
	if n > 0 {
		fs.wrote(h)
		return uint32(n), gofuse.OK // a short write: the program hears of the error at the next one
	}
	return 0, r.status(err)
}

// writing is how far a write(2) has come that the kernel has cut in parts.
type writing struct {
	call string // as /proc shows it
	left uint64 // bytes to come
}

// goesOn finds out whether the kernel has cut a write(2) in parts, of which this is not the
// last: nothing in its requests says so, but the calling thread stands in the call with
// its arguments. The result answers whether it still does.
func (h *fileHandle) goesOn(in *gofuse.WriteIn) func() bool {
	h.writingMu.Lock()
	defer h.writingMu.Unlock()
	last := h.writing
	h.writing = writing{}
	// It cuts where a request is full, and behind a page that is not written wholly.
	page := uint64(os.Getpagesize())
	begin, end := in.Offset%page, (in.Offset+uint64(in.Size))%page
	cut := begin+uint64(in.Size) == writeBytes || begin != 0 && end == 0
	if in.Pid == 0 || in.WriteFlags&gofuse.WRITE_CACHE != 0 || !cut && last.left == 0 {
		return nil
	}
	call, bytes := writeCall(in.Pid)
	if last.call == call {
		bytes = last.left
	}
	if bytes <= uint64(in.Size) {
		return nil
	}
	h.writing = writing{call, bytes - uint64(in.Size)}
	return func() bool {
		now, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", in.Pid))
		return err == nil && (string(now) == call || isRunning(now))
	}
}

// Bounds of waiting for a thread to wait for us.
const (
	asleepIn   = 20 * time.Millisecond
	asleepPoll = 20 * time.Microsecond
)

// isRunning reports whether the kernel says only that a thread is on a processor, or ready.
func isRunning(call []byte) bool { return strings.HasPrefix(string(call), "running") }

// writeCall reads the call that a thread stands in; bytes is how many it is to write, 0 when
// it is no write(2) or pwrite(2).
func writeCall(thread uint32) (call string, bytes uint64) {
	var text []byte
	for end := time.Now().Add(asleepIn); ; time.Sleep(asleepPoll) {
		var err error
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/syscall", thread)); err != nil {
			return "", 0
		}
		// It is about to wait for our answer; before it does its call is not told.
		if !isRunning(text) || time.Now().After(end) {
			break
		}
	}
	var number int
	var fd, buffer uint64
	if n, _ := fmt.Sscanf(string(text), "%d 0x%x 0x%x 0x%x", &number, &fd, &buffer, &bytes); n != 4 || number != unix.SYS_WRITE && number != unix.SYS_PWRITE64 {
		return "", 0
	}
	return string(text), bytes
}
