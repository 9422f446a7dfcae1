// Clang's thread-safety analysis; the macros are empty under g++. See docs/style.md,
// `rank-every-lock`.
#pragma once

#if defined(__clang__)
#define CAISSON_TSA(x) __attribute__((x))
#else
#define CAISSON_TSA(x)
#endif

#define CAPABILITY(x) CAISSON_TSA(capability(x))
#define SCOPED_CAPABILITY CAISSON_TSA(scoped_lockable)
#define GUARDED_BY(x) CAISSON_TSA(guarded_by(x))
#define PT_GUARDED_BY(x) CAISSON_TSA(pt_guarded_by(x))
#define REQUIRES(...) CAISSON_TSA(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) CAISSON_TSA(locks_excluded(__VA_ARGS__))
#define REQUIRES_SHARED(...) CAISSON_TSA(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) CAISSON_TSA(acquire_shared_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) CAISSON_TSA(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) CAISSON_TSA(release_generic_capability(__VA_ARGS__))
#define ACQUIRE(...) CAISSON_TSA(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) CAISSON_TSA(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) CAISSON_TSA(release_capability(__VA_ARGS__))
#define RETURN_CAPABILITY(x) CAISSON_TSA(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS CAISSON_TSA(no_thread_safety_analysis)
// On an empty function that tells the analysis which lock is held.
#define ASSERT_CAPABILITY(x) CAISSON_TSA(assert_capability(x))
