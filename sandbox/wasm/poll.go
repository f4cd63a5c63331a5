package wasm

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// wazero's own poll_oneoff knows no moments, only durations, and CPython's time.sleep
// waits for a moment. The one here knows both. What is no clock is always ready: stdin is
// at its end, stdout and stderr are taken, and files never wait.

// The layout of what a program gives and gets, from WASI's preview 1.
const (
	subscriptionSize = 48
	eventSize        = 32
	mostPolled       = 1024

	pollClock = 0 // kinds of subscription; the others are descriptors
	pollWrite = 2

	clockReal      = 0
	clockMonotonic = 1
	clockAbsolute  = 1 // a flag: the time is a moment

	errnoOK           = 0
	errnoFault        = 21
	errnoInvalid      = 28
	errnoNotSupported = 58
)

// clocks are what a program's time is made of.
type clocks struct {
	wall  sys.Walltime
	mono  sys.Nanotime
	sleep sys.Nanosleep
}

var systemStart = time.Now()

// systemClocks are the machine's own.
func systemClocks() clocks {
	return clocks{
		wall: func() (int64, int32) {
			now := time.Now()
			return now.Unix(), int32(now.Nanosecond())
		},
		mono:  func() int64 { return int64(time.Since(systemStart)) + 1 },
		sleep: func(ns int64) { time.Sleep(time.Duration(ns)) },
	}
}

// now reads one of them, in nanoseconds.
func (c clocks) now(id uint32) (int64, bool) {
	switch id {
	case clockReal:
		sec, nsec := c.wall()
		return sec*1e9 + int64(nsec), true
	case clockMonotonic:
		return c.mono(), true
	}
	return 0, false
}

// instantiateWASI gives a program WASI, with the poll_oneoff of this file.
func instantiateWASI(ctx context.Context, r wazero.Runtime, c clocks) error {
	b := r.NewHostModuleBuilder(wasi_snapshot_preview1.ModuleName)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(b)
	i32 := api.ValueTypeI32
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, mod api.Module, stack []uint64) {
		stack[0] = uint64(c.poll(mod.Memory(), uint32(stack[0]), uint32(stack[1]), uint32(stack[2]), uint32(stack[3])))
	}), []api.ValueType{i32, i32, i32, i32}, []api.ValueType{i32}).Export("poll_oneoff")
	_, err := b.Instantiate(ctx)
	return err
}

// poll waits for the first of what a program subscribed to.
func (c clocks) poll(mem api.Memory, in, out, count, result uint32) uint32 {
	if count == 0 || count > mostPolled {
		return errnoInvalid
	}
	subs, ok := mem.Read(in, count*subscriptionSize)
	if !ok {
		return errnoFault
	}
	events, ok := mem.Read(out, count*eventSize)
	if !ok {
		return errnoFault
	}
	wait := int64(math.MaxInt64)
	waits := make([]int64, count)
	failed := make([]uint16, count)
	for i := range count {
		waits[i], failed[i] = c.until(subs[i*subscriptionSize:][:subscriptionSize])
		wait = min(wait, waits[i])
	}
	if wait > 0 {
		c.sleep(wait)
	}
	n := uint32(0)
	// The events may overwrite the subscriptions: each is read before its place is written,
	// since an event is the shorter one and none comes before its subscription.
	for i := range count {
		if waits[i] > wait {
			continue
		}
		sub := subs[i*subscriptionSize:]
		userdata, kind := binary.LittleEndian.Uint64(sub), sub[8]
		e := events[n*eventSize:][:eventSize]
		clear(e)
		binary.LittleEndian.PutUint64(e, userdata)
		binary.LittleEndian.PutUint16(e[8:], failed[i])
		e[10] = kind
		n++
	}
	if !mem.WriteUint32Le(result, n) {
		return errnoFault
	}
	return errnoOK
}

// until says how long it is until a subscription's event, in nanoseconds.
func (c clocks) until(sub []byte) (int64, uint16) {
	kind := sub[8]
	if kind > pollWrite {
		return 0, errnoInvalid
	}
	if kind != pollClock {
		return 0, errnoOK
	}
	now, ok := c.now(binary.LittleEndian.Uint32(sub[16:]))
	if !ok {
		return 0, errnoNotSupported
	}
	ns := int64(min(binary.LittleEndian.Uint64(sub[24:]), math.MaxInt64))
	if binary.LittleEndian.Uint16(sub[40:])&clockAbsolute != 0 {
		ns = max(0, ns-now)
	}
	return ns, errnoOK
}
