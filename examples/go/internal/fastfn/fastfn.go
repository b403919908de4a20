// Package fastfn registers DoFns and functions with the Beam Go SDK so that the
// harness calls them directly instead of through reflection.
//
// The SDK's register.DoFnNxM does the same for every life-cycle method at once,
// which makes the compiler instantiate hundreds of functions per DoFn. These
// wrappers cover what the examples use, ProcessElement and plain functions, and
// cost no compile time worth measuring.
package fastfn

import (
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
)

// Process2 is a DoFn whose ProcessElement takes two arguments, emitters and
// contexts included, and returns nothing.
type Process2[A, B any] interface{ ProcessElement(A, B) }

// Process3 is a DoFn whose ProcessElement takes three arguments.
type Process3[A, B, C any] interface{ ProcessElement(A, B, C) }

// Process4 is a DoFn whose ProcessElement takes four arguments.
type Process4[A, B, C, D any] interface{ ProcessElement(A, B, C, D) }

// DoFn2 registers the type of f, a pointer to a struct.
func DoFn2[A, B any](f Process2[A, B]) {
	registerStruct(f, func(fn any) reflectx.Func { return call2[A, B](fn.(Process2[A, B]).ProcessElement) })
}

// DoFn3 registers the type of f, a pointer to a struct.
func DoFn3[A, B, C any](f Process3[A, B, C]) {
	registerStruct(f, func(fn any) reflectx.Func { return call3[A, B, C](fn.(Process3[A, B, C]).ProcessElement) })
}

// DoFn4 registers the type of f, a pointer to a struct.
func DoFn4[A, B, C, D any](f Process4[A, B, C, D]) {
	registerStruct(f, func(fn any) reflectx.Func { return call4[A, B, C, D](fn.(Process4[A, B, C, D]).ProcessElement) })
}

// Function2 registers f, a function at package level such as a binary combiner.
func Function2[A, B, R any](f func(A, B) R) {
	beam.RegisterFunction(f)
	reflectx.RegisterFunc(reflect.TypeOf(f), func(fn any) reflectx.Func { return binary[A, B, R](fn.(func(A, B) R)) })
}

func registerStruct(f any, processElement func(fn any) reflectx.Func) {
	t := reflect.TypeOf(f).Elem()
	beam.RegisterType(t)
	reflectx.RegisterStructWrapper(t, func(fn any) map[string]reflectx.Func {
		return map[string]reflectx.Func{"ProcessElement": processElement(fn)}
	})
}

// The types below satisfy reflectx.FuncNxM; the SDK looks for these methods and
// falls back to Call only where they are missing.

type call2[A, B any] func(A, B)

func (f call2[A, B]) Name() string       { return "ProcessElement" }
func (f call2[A, B]) Type() reflect.Type { return reflect.TypeFor[func(A, B)]() }
func (f call2[A, B]) Call(v []any) []any { f.Call2x0(v[0], v[1]); return nil }
func (f call2[A, B]) Call2x0(a, b any)   { f(a.(A), b.(B)) }

type call3[A, B, C any] func(A, B, C)

func (f call3[A, B, C]) Name() string        { return "ProcessElement" }
func (f call3[A, B, C]) Type() reflect.Type  { return reflect.TypeFor[func(A, B, C)]() }
func (f call3[A, B, C]) Call(v []any) []any  { f.Call3x0(v[0], v[1], v[2]); return nil }
func (f call3[A, B, C]) Call3x0(a, b, c any) { f(a.(A), b.(B), c.(C)) }

type call4[A, B, C, D any] func(A, B, C, D)

func (f call4[A, B, C, D]) Name() string           { return "ProcessElement" }
func (f call4[A, B, C, D]) Type() reflect.Type     { return reflect.TypeFor[func(A, B, C, D)]() }
func (f call4[A, B, C, D]) Call(v []any) []any     { f.Call4x0(v[0], v[1], v[2], v[3]); return nil }
func (f call4[A, B, C, D]) Call4x0(a, b, c, d any) { f(a.(A), b.(B), c.(C), d.(D)) }

type binary[A, B, R any] func(A, B) R

func (f binary[A, B, R]) Name() string         { return reflectx.FunctionName((func(A, B) R)(f)) }
func (f binary[A, B, R]) Type() reflect.Type   { return reflect.TypeFor[func(A, B) R]() }
func (f binary[A, B, R]) Call(v []any) []any   { return []any{f.Call2x1(v[0], v[1])} }
func (f binary[A, B, R]) Call2x1(a, b any) any { return f(a.(A), b.(B)) }
