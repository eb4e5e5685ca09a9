# The base of the images where no registry serves one: the distribution's own Python in a minimal root file system,
# packed by mmdebstrap into rootfs.tar (tests/cluster/src/rltrain_cluster/images.py).
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["/bin/bash"]
