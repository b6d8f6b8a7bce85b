package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Read fills the kernel's buffer; fewer bytes than asked for mean the end of
// the file.
func (fs *fileSystem) Read(cancel <-chan struct{}, input *gofuse.ReadIn, buf []byte) (result gofuse.ReadResult, status gofuse.Status) {
	r := fs.begin(opRead, cancel, &input.InHeader)
	defer r.end(&status)
	f := fs.file(input.Fh)
	if f == nil {
		return nil, gofuse.EBADF
	}
	n, err := f.Read(r, buf, int64(input.Offset))
	if err != nil {
		return nil, r.status(err)
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}
