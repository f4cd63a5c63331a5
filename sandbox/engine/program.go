package engine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spare-compute/spare/sandbox"
)

// The probe needs a program to look around from inside, and there may be none that fits:
// this one may be a macOS program, and nothing is downloaded. So it brings one: two
// hundred bytes of machine code that print the files named as its arguments, and create
// those whose names begin with +. After each comes a zero byte and + if it could be
// opened, - if not.
//
//	for arg in argv[1:]:
//	    flags = O_RDONLY
//	    if arg[0] == '+': arg++, flags = O_WRONLY|O_CREAT
//	    fd = openat(AT_FDCWD, arg, flags, 0644)
//	    if fd < 0: write(1, "\0-", 2); continue
//	    if flags == O_RDONLY:
//	        while (n = read(fd, buf, 4096)) > 0: write(1, buf, n)
//	    close(fd); write(1, "\0+", 2)
//	exit_group(0)

const (
	probeAMD64 = "488b1c244c8d6424104881ec0010000048ffcb0f8e8d000000498b34244983c4084531f6803e2b750948ffc641be41000000" +
		"bf9cffffff4489f241baa4010000b8010100000f0541bd002d000085c0783889c541bd002b00004585f6752231c089ef4889e6ba00100000" +
		"0f0585c07e1089c2b801000000bf010000000f05ebdeb80300000089ef0f0544892c24b801000000bf010000004889e6ba020000000f05" +
		"e96affffffb8e700000031ff0f05"

	// Words of four bytes, each as the processor's manual writes it.
	probeARM64 = "f94003f3910043f4910003f9d1400739f10006735400058df940028191002294aa1f03f539400029f100ad3f54000061" +
		"91000421d280083592800c60aa1503e2d2803483b27d0be8d4000001d285a016f100001f540002abaa0003f7d2856016" +
		"f10002bf540001c1aa1703e0aa1903e1b27403e2b24017e8d4000001f100001f540000edaa0003e2b24003e0aa1903e1" +
		"b27a03e8d400000117fffff4aa1703e0d2800728d400000179000336b24003e0aa1903e1b27f03e2b27a03e8d4000001" +
		"17ffffd4aa1f03e0d2800bc8d4000001"
)

// probeProgram is the program as an ELF file, for one of Go's processors.
func probeProgram(arch string) ([]byte, error) {
	text, machine := probeAMD64, uint16(62) // EM_X86_64
	if arch == "arm64" {
		text, machine = probeARM64, 183 // EM_AARCH64
	} else if arch != "amd64" {
		return nil, fmt.Errorf("probe containers on %s: there is no program for it", arch)
	}
	code, err := hex.DecodeString(text)
	if err != nil {
		return nil, err
	}
	if arch == "arm64" {
		for i := 0; i < len(code); i += 4 {
			binary.LittleEndian.PutUint32(code[i:], binary.BigEndian.Uint32(code[i:]))
		}
	}
	const base, head = 0x400000, 64 + 56 // where it lies in memory; the two headers' size
	var b bytes.Buffer
	size := uint64(head + len(code))
	for _, v := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1},
		uint16(2), machine, uint32(1), uint64(base + head), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// The one segment: readable, executable.
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	b.Write(code)
	return b.Bytes(), nil
}

// probeImage is an image that holds nothing but the program, /probe.
func probeImage(arch string) (*sandbox.Image, error) {
	program, err := probeProgram(arch)
	if err != nil {
		return nil, err
	}
	layer, err := pack([]packed{{name: "probe", mode: 0o755, bytes: program}})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Cmd": []string{"/probe"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	id := digest(config)
	manifest, err := json.Marshal([]map[string]any{{"Config": id[len("sha256:"):] + ".json", "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	archive, err := pack([]packed{
		{name: id[len("sha256:"):] + ".json", mode: 0o644, bytes: config},
		{name: "layer.tar", mode: 0o644, bytes: layer},
		{name: "manifest.json", mode: 0o644, bytes: manifest},
	})
	if err != nil {
		return nil, err
	}
	return &sandbox.Image{ID: id, Archive: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }}, nil
}

type packed struct {
	name  string
	mode  int64
	bytes []byte
}

func pack(files []packed) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: f.mode, Size: int64(len(f.bytes))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.bytes); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
