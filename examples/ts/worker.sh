#!/bin/sh
# Starts a worker process: Beam's boot program for TypeScript in this folder, where it
# finds the SDK. What it stores goes into the worker's own folder, which the server removes.
own=$PWD
cd "$(dirname "$0")" && exec ./ts-boot "$@" --semi_persist_dir="$own"
