"""Catalogue entries of what all else stands on: CUDA, NCCL, Ray, PyTorch, threads.

Sections 1, 2, 3, 8, 9, 10 and 14 of the reference. What is said of a reader was looked up in its source or measured:
PyTorch 2.13, Ray 2.60, tokenizers 0.23, NCCL's `debug.cc`, `paths.cc` and `cudawrap.cc`. Data only.
"""

from __future__ import annotations

from rltrain_api.env.variable import (
    ALLOCATOR,
    COUNT,
    DEVICES,
    FLAG,
    INTERFACES,
    TEXT,
    Kind,
    Reader,
    Values,
    Variable,
    at_least,
    choice,
)

CUDA = (
    Variable(
        "CUDA_VISIBLE_DEVICES",
        1,
        "Which GPUs a process sees, and in which order.",
        DEVICES,
        "all GPUs of the container",
        (Reader.CUDA, Reader.TORCH, Reader.RAY, Reader.VLLM, Reader.SKYRL),
        "Kubernetes gives each pod its GPUs and Ray sets the variable for each rank and engine, so it is refused in "
        "pods.",
        "trainer.placement.policy_num_gpus_per_node",
    ),
    Variable(
        "CUDA_LAUNCH_BLOCKING",
        1,
        "Waits for every kernel before going on, so that an error is reported where it happened.",
        FLAG,
        "0, kernels run asynchronously",
        (Reader.CUDA, Reader.TORCH),
        "For debugging: it slows every step down.",
    ),
    Variable(
        "TORCH_CUDA_ALLOC_CONF",
        1,
        "Meant to set up PyTorch's CUDA allocator.",
        ALLOCATOR,
        "no effect",
        truth="PyTorch has never read this spelling.",
        instead="PYTORCH_CUDA_ALLOC_CONF",
    ),
)

NCCL = (
    Variable(
        "NCCL_DEBUG",
        2,
        "How much NCCL writes to the log.",
        choice("VERSION", "WARN", "INFO", "TRACE", any_case=True),
        "nothing is written",
        (Reader.NCCL,),
        "Unset is not WARN: NCCL is then silent. TRACE needs a build of NCCL with tracing.",
    ),
    Variable(
        "NCCL_DEBUG_SUBSYS",
        2,
        "Which parts of NCCL write to the log at level INFO; a leading ^ means all but these.",
        Values(
            Kind.SETTINGS,
            "subsystems such as INIT,NET or ALL, separated by commas",
            r"\^?[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*",
        ),
        "INIT, BOOTSTRAP and ENV",
        (Reader.NCCL,),
        "Does nothing unless NCCL_DEBUG is INFO or TRACE.",
    ),
    Variable(
        "NCCL_TIMEOUT",
        2,
        "Meant as the time a collective may take.",
        at_least(1, Kind.SECONDS),
        "no effect",
        truth="Neither NCCL nor PyTorch reads it: the timeout belongs to the process group, and its default is 600 s "
        "for NCCL, not 1800.",
        instead="SKYRL_WORKER_NCCL_TIMEOUT_IN_S with runtime.trainer skyrl",
    ),
    Variable(
        "NCCL_IB_DISABLE",
        2,
        "Keeps NCCL off InfiniBand and RoCE; it then uses TCP sockets.",
        FLAG,
        "0, InfiniBand is used where there is one",
        (Reader.NCCL,),
        "0 is the default and does not enforce InfiniBand: without its devices in the pod NCCL falls back to TCP "
        "without a word.",
    ),
    Variable(
        "NCCL_SOCKET_IFNAME",
        2,
        "Which network interfaces NCCL uses for sockets.",
        INTERFACES,
        "every interface but lo and docker*, InfiniBand first",
        (Reader.NCCL,),
        "A name is a prefix (eth also means eth1) unless it begins with =, and ^ excludes. In pods the cluster's "
        "network is eth0 with most network plug-ins, and not with hostNetwork.",
    ),
    Variable(
        "NCCL_P2P_DISABLE",
        2,
        "Forbids direct copies between the GPUs of a node (NVLink, PCIe).",
        FLAG,
        "0, direct copies are used where they work",
        (Reader.NCCL,),
        "SkyRL sets it by itself where it finds GPUs without peer access; that cannot be known before the pods run.",
    ),
    Variable(
        "NCCL_ASYNC_ERROR_HANDLING",
        2,
        "Ends the process when a collective fails or times out.",
        choice("0", "1", "2", "3"),
        "3, the process ends without cleaning up",
        (Reader.TORCH,),
        "PyTorch's variable, not NCCL's. Renamed; the old name is still read, and 1 is not stricter than the default.",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    ),
    Variable(
        "NCCL_CUMEM_ENABLE",
        14,
        "Whether NCCL allocates its buffers by CUDA's virtual memory calls (cuMem).",
        choice("0", "1", "-2"),
        "-2, on where the driver can",
        (Reader.NCCL,),
        "It has nothing to do with CUDA IPC of weights. SkyRL 0.1.0 and rLLM set 0 because of a defect that NCCL "
        "2.22.3 mended; later SkyRL leaves it alone.",
    ),
    Variable(
        "NCCL_NET_GDR_LEVEL",
        14,
        "How far apart GPU and network card may be for GPU Direct RDMA.",
        choice("LOC", "PIX", "PXB", "PXN", "P2C", "PHB", "SYS", "0", "1", "2", "3", "4", "5"),
        "NCCL decides by the topology",
        (Reader.NCCL,),
        "A distance, not a feature level. The old numbers mean 0 LOC (never), 1 PIX, 2 PXB, 3 PHB, from 4 SYS; names "
        "are upper case.",
    ),
)

RAY = (
    Variable(
        "RAY_DEDUP_LOGS",
        3,
        "Shows a line that many workers write once, with their number.",
        choice("0", "1", "true", "false", any_case=True),
        "1, repeated lines are merged",
        (Reader.RAY,),
        "Read by the driver.",
    ),
    Variable(
        "RAY_RUNTIME_ENV_HOOK",
        3,
        "A function that may change the runtime environment of every ray.init.",
        Values(Kind.TEXT, "the import path of a function", r"[A-Za-z_][\w.]*\.\w+"),
        "no hook",
        (Reader.RAY,),
        "Ray loads whatever it names, so an empty value is an error and not an absent hook: where the image sets it, "
        "take it out of the image. RLTrain's images do not set it. With an editable install it fails on package "
        "metadata.",
    ),
    Variable(
        "RAY_ADDRESS",
        3,
        "Which cluster ray.init and Ray's commands connect to.",
        TEXT,
        "the cluster on this node",
        (Reader.RAY,),
        "KubeRay sets it in every pod; another value cuts the pod off from its cluster, so it is refused.",
    ),
    Variable(
        "RAY_memory_monitor_refresh_ms",
        3,
        "Milliseconds between Ray's looks at the memory of the node; 0 means never.",
        at_least(0),
        "250",
        (Reader.RAY,),
        "Read by the raylet, so it must be in the pod, and a runtime_env comes too late. Of mixed case, as Ray spells "
        "its own settings.",
    ),
)

TORCH = (
    Variable(
        "PYTORCH_CUDA_ALLOC_CONF",
        8,
        "Sets up PyTorch's CUDA allocator, against fragmentation for instance.",
        ALLOCATOR,
        "segments of fixed size",
        (Reader.TORCH, Reader.VLLM),
        "The older name of PYTORCH_ALLOC_CONF; where both are set, this one counts. vLLM refuses to start with "
        "expandable_segments:True in sleep mode, which colocate_all uses.",
    ),
    Variable(
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        8,
        "Makes PyTorch ask CUDA for every tensor, without a cache.",
        Values(Kind.FLAG, "1; to keep the cache, leave it unset", "1"),
        "unset, memory is cached",
        (Reader.TORCH,),
        "For memory checkers: very slow. PyTorch looks at whether it is set, not at its value, so 0 turns the cache "
        "off too.",
    ),
    Variable(
        "TORCH_DISTRIBUTED_DEBUG",
        8,
        "How much torch.distributed checks and reports.",
        choice("OFF", "INFO", "DETAIL", any_case=True),
        "OFF",
        (Reader.TORCH,),
        "Another value is an error on import. DETAIL checks every collective and is slow.",
    ),
    Variable(
        "TORCH_SHOW_CPP_STACKTRACES",
        8,
        "Adds the C++ stack to PyTorch's errors.",
        FLAG,
        "0; 1 if TORCH_DISTRIBUTED_DEBUG is DETAIL",
        (Reader.TORCH,),
        "true and yes are ignored.",
    ),
)

THREADS = (
    Variable(
        "OMP_NUM_THREADS",
        9,
        "Threads of OpenMP, and so of PyTorch on a CPU.",
        COUNT,
        "Ray sets the CPUs of the actor, 1 if it asks for none; the builtin engine takes 1",
        (Reader.OPENMP, Reader.TORCH, Reader.RAY, Reader.RLTRAIN),
        "Counts for each rank and engine: several on few cores slow each other down.",
    ),
    Variable(
        "MKL_NUM_THREADS",
        9,
        "Threads of Intel's MKL.",
        COUNT,
        "OMP_NUM_THREADS",
        (Reader.MKL, Reader.TORCH),
        "Only where PyTorch was built with MKL.",
    ),
    Variable(
        "TOKENIZERS_PARALLELISM",
        9,
        "Whether fast tokenizers use several threads.",
        Values(Kind.BOOLEAN, "true or false", "(?i:true|false|1|0|on|off|yes|no)"),
        "true, until the process forks",
        (Reader.TOKENIZERS,),
        "Setting it, to either value, also silences the warning about forks; true keeps threads after a fork, which "
        "may hang.",
    ),
    Variable(
        "GLOO_SOCKET_IFNAME",
        10,
        "Which network interfaces Gloo uses.",
        INTERFACES,
        "the interface of the host's own name",
        (Reader.TORCH,),
        "Exact names, unlike NCCL_SOCKET_IFNAME.",
    ),
)

PLATFORM = (*CUDA, *NCCL, *RAY, *TORCH, *THREADS)
