//! What is trusted, what is not, and what each `unsafe fn` asks for.
//!
//! Dune mode gives a Rust program powers that no Rust program has: it can change what an address means, what a trap does, and
//! what runs at which privilege. The rule is that **no sequence of safe calls, in any thread, in trap handlers or outside of
//! them, lets safe code see a value change behind a shared reference, jump, free twice, or run a privileged instruction outside
//! of ring 0**. This chapter says why that holds, so that whoever changes something knows what to think through.
//!
//! # Who trusts whom
//!
//! | who | is trusted by | with what |
//! |---|---|---|
//! | the CPU, KVM, Linux | everybody | that they do what their manuals say |
//! | Linux | trusts nothing in Dune mode | the hardware's second translation shows Dune mode the process's own memory only |
//! | ring 0: this library | the program | the thread block, the tables that the CPU reads, the page tables' arena |
//! | ring 0: unsafe code of the program | the program, this library | what the `unsafe fn`s below ask for |
//! | ring 0: safe code of the program | nothing | it may call any safe function in any order, also in handlers |
//! | ring 3 | nothing | it reaches pages with the user bit, and comes back by system calls and traps only |
//!
//! A program in ring 0 is not protected from its own unsafe code, and a crash is not unsoundness: safe code may take away a
//! page that the process needs, and the process then ends with a report, or by a triple fault, which the host loop reports.
//!
//! # Memory, page tables and ring 3
//!
//! ## What is sensitive
//!
//! * **Frames that are page tables**, and all of the arena that they come from ([`FrameAllocator`]). The arena is mapped for ring
//!   0 as the process's memory is, but Rust has no references into it: tables are accessed by atomics only.
//! * **Frames that were handed out.** One that is given back may be a page table a moment later; so whoever gives it back must
//!   know that nothing maps it.
//! * **The user bit**, on all levels. It is the only thing that lets ring 3 in.
//! * **CR3, CR4.PCIDE, CR4.PGE.** No safe function takes a value for them: roots come from this library, PCIDs from a type, what
//!   the CPU has from CPUID ([`PagingFeatures`] has private fields).
//! * **The translation caches.** Until they are flushed, an edit has not happened for some CPU.
//! * **Pinned pages**: thread blocks, interrupt stacks, host-loop stacks. Nothing that the mirror of Linux's mappings is told
//!   changes them.
//!
//! ## Why the safe functions are sound
//!
//! *Identity.* What the mirror puts into the tables leads each address to the memory that Linux has there. All that a safe edit
//! does to an entry keeps its frame, or takes it away, so the memory behind a Rust reference never becomes another:
//!
//! | safe function | what it can do at worst |
//! |---|---|
//! | [`PageTables::protect`], [`Memory::protect_now`] | take rights away: a fault. Give ring 0 rights that Linux's mapping has not: the second level refuses what Linux would, but execution, and safe code does not jump. The user bit is refused ([`EditError::NeedsGrant`]), and taken away |
//! | [`PageTables::revoke_user`] | keep ring 3 out |
//! | [`PageTables::unmap`] | a fault. That the memory comes back there is for [`remap`](crate::memory::PageTables::remap), which is unsafe: it could be other memory than what was unmapped |
//! | [`PageTables::split`], [`PageTables::merge`] | the same frames and rights in other sizes |
//! | [`PageTables::harvest_dirty`], [`PageTables::harvest_accessed`] | clear marks, which are nobody's proof |
//! | [`Dune::watch_linux_writes`] | have marks set; refuse the calls that begin asynchronous writes |
//! | [`PageTables::lookup`], [`PageTables::translate`], [`PageTables::root`] | tell addresses |
//! | [`Flush::now`], [`Flush::defer`], [`Memory::collect`], [`tlb`] | forget translations too often |
//! | [`FrameAllocator::allocate`], [`FrameAllocator::trim`] | take memory; a frame that is dropped stays in use |
//! | [`Memory::new_space`], [`AddressSpace::page_tables`], dropping a space | edits as above, in tables that are not in use until [`AddressSpace::enter`], which is unsafe |
//! | [`SnapshotMemory`], [`Snapshot`] | guard and open pages of a mapping of its own; the bytes are copied by instructions that are no accesses of Rust's. A snapshot that misses a write shows other bytes, and nothing else |
//! | [`UserMemory`], [`Dune::copy_from_user`], [`Dune::copy_to_user`] | see below |
//!
//! *Flushes.* A [`Flush`] may be dropped, deferred or forgotten by safe code. It is counted when it comes into being, so the next
//! `now()` knows that there are others, and flushes everything on all CPUs. So who has edited a page and flushed can rely on no CPU
//! having an older translation of it, whoever edited it before. Tables that an edit emptied are freed by the flush only.
//!
//! *Stale entries.* Where Linux has changed a mapping and the tables do not know yet, an access goes to the second level, where
//! Linux's mapping is what counts. It finds what Linux has at that address, or faults.
//!
//! *Locks.* All edits and all walks are made under one lock, so no table is given back while somebody walks it. A page fault of
//! code that holds it (`streams.rs`, `disarm`) walks the tables of its own thread's edit, which nobody else changes. Whoever
//! finds the lock taken by the code that it has interrupted is told so ([`EditError::Busy`]) and does without.
//!
//! *Ring 3.* All registers are loaded from the [`UserContext`], whose dangerous ones are checked or forced: RIP is below 2^47, the
//! bases are canonical, of the flags ring 3 chooses those that cost nothing, selectors are fixed. What comes back is stored in the
//! context alone. A system call or a trap of ring 3 is a value of [`run_user`](crate::Dune::run_user), and nothing more happens.
//!
//! *Memory for ring 3.* [`UserMemory`] is a mapping of its own, into which there never was a reference. It keeps ring 3 out and
//! flushes before it gives its addresses back. The checked copies access an address only if the page tables, which are locked
//! meanwhile, let ring 3 do the same; so a supervisor that is given an address of the program's heap gets an error. What they write
//! to is memory whose owner has promised that nothing depends on it, since ring 3 writes there, too.
//!
//! *Spaces of ring 3's.* [`SpaceMemory`](crate::user::SpaceMemory) lies where nothing else of the process does, and there are no references
//! into it; ring 0 copies by instructions that the compiler does not see through. A [`UserSpace`](crate::user::UserSpace) differs from the
//! process's own space in the addresses of such memory only, so ring 0 finds all of its own on the way into ring 3 and back. Each space has
//! a reference to each memory that it maps, so memory is given back when no space has it. A thread that runs in a space is counted before it loads the root:
//! who edits the space's tables and counts none needs no flush, for whoever comes later compares the counts of edits.
//!
//! ## What the unsafe functions ask for
//!
//! | function | the caller promises |
//! |---|---|
//! | [`PageTables::protect_for_user`], [`PageTables::grant_user`] | memory that ring 3 may write to is nobody's: no references, no code, no tables; it is not given back while ring 3 has it |
//! | [`PageTables::map`], [`PageTables::alias`] | the addresses are reserved; what is done through them is right for the memory behind; that memory stays until they are unmapped and flushed; nothing relies on them being accessible |
//! | [`PageTables::replace`] | the same; and the new frame holds what Rust's references are to see |
//! | [`PageTables::remap`] | what Rust refers to there is in the process's own memory |
//! | [`FrameAllocator::free`] | nothing maps the frame, no CPU has it cached, nobody uses it |
//! | [`FrameAllocator::from_raw`] | the frame is in use, and this is its only owner |
//! | [`Dune::run_user`], [`Dune::run_user_until`], [`UserSpace::run`](crate::user::UserSpace::run) | ring 0 keeps the context, its vector state and the caller's stack: a page fault on the way into ring 3 or back would find ring 3's segment bases |
//! | [`Flush::ignore`] | the old translations do no harm |
//! | [`AddressSpace::enter`], [`ActiveSpace::switch_to`] | code, stacks and tables are where they are; what the space maps otherwise, or lets ring 3 do, is right |
//!
//! Such a promise can not rest on what safe code may undo: a page that is protected against writing for a program's
//! correctness may be made writable by any other safe code. Nothing that is unsafe may rely on a *right* being missing in ring 0,
//! only on ring 3 being kept out, and on *frames*.
//!
//! Crate `dune-gc` relies on dirty marks, or on rights, of the pages of its heaps all the same. So making a heap is unsafe there, and who makes
//! one promises, among other things, to leave those pages alone; its own chapter `dune_gc::soundness` has the rest.
//!
//! These do not compile:
//!
//! ```compile_fail,E0133
//! # fn with(dune: dune::Dune, range: dune::memory::PageRange) -> Result<(), dune::memory::EditError> {
//! dune.page_tables()?.protect_for_user(range, dune::memory::PagePermissions::USER)?.now(dune);
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0133
//! # fn with(dune: dune::Dune, frame: dune::memory::Frame) {
//! let _ = dune.memory().frames().free(frame); // it may be mapped
//! # }
//! ```
//!
//! ```compile_fail,E0133
//! # fn with(dune: dune::Dune, range: dune::memory::PageRange) -> Result<(), dune::memory::EditError> {
//! dune.page_tables()?.unmap(range)?.ignore();
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0133
//! # fn with(dune: dune::Dune, range: dune::memory::PageRange) -> Result<(), dune::memory::EditError> {
//! dune.page_tables()?.remap(range, dune::memory::PagePermissions::READ)?.now(dune);
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0451
//! use dune::memory::PagingFeatures;
//! let claimed = PagingFeatures { invpcid: true, ..PagingFeatures::default() }; // only CPUID says so
//! ```
//!
//! [`ActiveSpace::switch_to`]: crate::memory::ActiveSpace::switch_to
//! [`AddressSpace::enter`]: crate::memory::AddressSpace::enter
//! [`AddressSpace::page_tables`]: crate::memory::AddressSpace::page_tables
//! [`Dune::copy_from_user`]: crate::Dune::copy_from_user
//! [`SnapshotMemory`]: crate::snapshot::SnapshotMemory
//! [`Snapshot`]: crate::snapshot::Snapshot
//! [`Dune::watch_linux_writes`]: crate::Dune::watch_linux_writes
//! [`Dune::copy_to_user`]: crate::Dune::copy_to_user
//! [`Dune::run_user`]: crate::Dune::run_user
//! [`Dune::run_user_until`]: crate::Dune::run_user_until
//! [`EditError::Busy`]: crate::memory::EditError::Busy
//! [`EditError::NeedsGrant`]: crate::memory::EditError::NeedsGrant
//! [`Flush`]: crate::memory::Flush
//! [`Flush::defer`]: crate::memory::Flush::defer
//! [`Flush::ignore`]: crate::memory::Flush::ignore
//! [`Flush::now`]: crate::memory::Flush::now
//! [`FrameAllocator`]: crate::memory::FrameAllocator
//! [`FrameAllocator::allocate`]: crate::memory::FrameAllocator::allocate
//! [`FrameAllocator::free`]: crate::memory::FrameAllocator::free
//! [`FrameAllocator::from_raw`]: crate::memory::FrameAllocator::from_raw
//! [`FrameAllocator::trim`]: crate::memory::FrameAllocator::trim
//! [`Memory::collect`]: crate::memory::Memory::collect
//! [`Memory::new_space`]: crate::memory::Memory::new_space
//! [`Memory::protect_now`]: crate::memory::Memory::protect_now
//! [`PageTables::alias`]: crate::memory::PageTables::alias
//! [`PageTables::grant_user`]: crate::memory::PageTables::grant_user
//! [`PageTables::harvest_accessed`]: crate::memory::PageTables::harvest_accessed
//! [`PageTables::harvest_dirty`]: crate::memory::PageTables::harvest_dirty
//! [`PageTables::lookup`]: crate::memory::PageTables::lookup
//! [`PageTables::map`]: crate::memory::PageTables::map
//! [`PageTables::remap`]: crate::memory::PageTables::remap
//! [`PageTables::merge`]: crate::memory::PageTables::merge
//! [`PageTables::protect`]: crate::memory::PageTables::protect
//! [`PageTables::protect_for_user`]: crate::memory::PageTables::protect_for_user
//! [`PageTables::replace`]: crate::memory::PageTables::replace
//! [`PageTables::revoke_user`]: crate::memory::PageTables::revoke_user
//! [`PageTables::root`]: crate::memory::PageTables::root
//! [`PageTables::split`]: crate::memory::PageTables::split
//! [`PageTables::translate`]: crate::memory::PageTables::translate
//! [`PageTables::unmap`]: crate::memory::PageTables::unmap
//! [`PagingFeatures`]: crate::memory::PagingFeatures
//! [`UserContext`]: crate::user::UserContext
//! [`UserMemory`]: crate::user::UserMemory
//! [`tlb`]: crate::memory::tlb
//!
//! # Handlers, the token and the host loop
//!
//! ## What is sensitive
//!
//! * **Registers of interrupted code.** A trap comes between any two instructions of safe code, whose references and bounds may be in any
//!   of them; where it goes on, and on which stack, is in the frame.
//! * **Code that runs in between.** A handler that allocates may enter the allocator twice, one that waits for a lock may wait for
//!   itself.
//! * **The privilege level.** HLT, CLI, MOV to CR3 and the like fault in ring 3; SYSCALL means another thing there.
//! * **The thread block**, to which GS leads at ring 0, and what the CPU finds through it: GDT, TSS, interrupt stacks.
//! * **The host loop's state**: a vCPU that runs, or a signal frame that Linux loads, is a jump.
//!
//! ## Why the safe functions are sound
//!
//! *Handlers.* Setting one is `unsafe` ([`Dune::set_handler`] has the conditions: those of a signal handler); taking one away, by
//! [`Dune::clear_handler`] and its like, is not, as the trap then does what it does on Linux. A handler is `&'static` and `Sync`, its code
//! and state are found by one atomic word, and so a thread that is in one which is replaced or taken away goes on with state that is
//! there. A panic ends the process in the first frame below the handler, and unwinds into nobody.
//!
//! *Registers.* A [`TrapFrame`] can be read. What changes it is `unsafe`. It can neither be copied nor made; and a handler
//! that comes during another, where there are two, exchanges nothing by swapping them, since to Rust a frame has no bytes; selectors can not be changed at all, and IOPL, by which the entry of system
//! calls tells the rings apart, is kept at 0:
//!
//! ```compile_fail,E0133
//! # use dune::TrapFrame;
//! fn jump(frame: &mut TrapFrame) {
//!     frame.set_rip(0x1234);
//! }
//! ```
//! ```compile_fail,E0507
//! # use dune::TrapFrame;
//! fn put_back(frame: &mut TrapFrame, old: &TrapFrame) {
//!     *frame = *old;
//! }
//! ```
//!
//! *The token.* [`Dune`] is proof of ring 0: [`enter`](crate::enter) makes one when Dune mode has answered, handlers get one, and
//! [`current`](crate::current) looks at CS. It is neither `Send` nor `Sync`, so it stays on a thread that is in Dune mode; and a thread leaves
//! Dune mode by `unsafe` only ([`leave`](crate::leave), [`Config::leave_for_good`](crate::Config::leave_for_good)). System calls after which
//! it would have to leave are refused without the latter. What else ends Dune mode ends the program: exec, and death. Children that run in
//! host mode (vfork) are started by code that is `unsafe` already, and run none of the program's safe code.
//!
//! *Locks.* A lock's holder is a thread, so its guards, and [`PageTables`](crate::memory::PageTables), stay on it:
//!
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<dune::memory::PageTables<'static>>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<dune::memory::PageTables<'static>>();
//! ```
//!
//! *Descriptors.* [`Dune::add_segment`] and [`Dune::load_ldt`] take code and data segments only, no gate and no TSS. The CPU marks them as
//! accessed, so a local table is a copy of the caller's. To load a selector takes assembly.
//!
//! *The thread block and the host loop.* A block belongs to one thread: ring 0, its host loop in turn, and signal handlers that
//! interrupt that, of which one runs at a time. Neither it nor the host's record of a thread is ever freed while Dune mode has run: the next
//! thread takes them over when Linux does not know the last one any more. Ring 0 comes to its block by the token; what either side changes
//! is in cells, so that references stay on the thread. The same holds for the host's record: the host loop has a shared reference to it, and
//! others look only at what is apart from it and atomic. What it has of the engine's changes where a process has one thread: in the child of
//! a fork, and where the last one leaves for good.
//!
//! *System calls* of the program's are made for it by the host loop. What they do to memory is the doing of the `unsafe` code that
//! executed SYSCALL, as it is on Linux.
//!
//! ## What the unsafe functions ask for
//!
//! | function | the caller vouches for |
//! |---|---|
//! | [`Dune::set_handler`], [`Dune::set_handler_by_number`], [`Dune::set_thread_handler`], [`Dune::set_range_handler`] | that all it does may be done wherever the trap can come from |
//! | [`Dune::set_lean_handler`], [`Dune::set_lean_thread_handler`] | the same, and that it leaves vector registers alone |
//! | [`TrapFrame::set_rip`], [`TrapFrame::set_rsp`], [`TrapFrame::set_flags`], [`TrapFrame::registers_mut`] | that the interrupted code expects it |
//! | [`leave`](crate::leave), [`Config::leave_for_good`](crate::Config::leave_for_good) | that nothing of Dune mode is used in the thread afterwards |
//! | [`Dune::load_idt`], [`Dune::load_gdt`], [`Dune::load_task_register`] | that the tables are whole, lead to Dune's stacks, and stay |
//!
//! [`Dune`]: crate::Dune
//! [`Dune::add_segment`]: crate::Dune::add_segment
//! [`Dune::clear_handler`]: crate::Dune::clear_handler
//! [`Dune::load_gdt`]: crate::Dune::load_gdt
//! [`Dune::load_idt`]: crate::Dune::load_idt
//! [`Dune::load_ldt`]: crate::Dune::load_ldt
//! [`Dune::load_task_register`]: crate::Dune::load_task_register
//! [`Dune::set_handler`]: crate::Dune::set_handler
//! [`Dune::set_handler_by_number`]: crate::Dune::set_handler_by_number
//! [`Dune::set_lean_handler`]: crate::Dune::set_lean_handler
//! [`Dune::set_lean_thread_handler`]: crate::Dune::set_lean_thread_handler
//! [`Dune::set_range_handler`]: crate::Dune::set_range_handler
//! [`Dune::set_thread_handler`]: crate::Dune::set_thread_handler
//! [`TrapFrame`]: crate::TrapFrame
//! [`TrapFrame::registers_mut`]: crate::TrapFrame::registers_mut
//! [`TrapFrame::set_flags`]: crate::TrapFrame::set_flags
//! [`TrapFrame::set_rip`]: crate::TrapFrame::set_rip
//! [`TrapFrame::set_rsp`]: crate::TrapFrame::set_rsp
