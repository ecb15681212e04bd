// A button that acts only after it was held down for a while, by pointer or by the space bar; let go early, nothing happens.
export default {
  template: `
  <button type="button" class="act danger hold" :disabled="disabled" :style="{'--held': held}" :aria-label="text + ': hold for ' + seconds + ' seconds'"
    @pointerdown="begin" @pointerup="end" @pointerleave="end" @pointercancel="end" @contextmenu.prevent
    @keydown.space.prevent="begin" @keyup.space="end" @blur="end"><span>{{ text }}</span></button>`,
  props: { text: String, seconds: Number, disabled: Boolean },
  emits: ["held"],
  data() {
    return { held: 0, since: null };
  },
  methods: {
    begin() {
      if (this.since !== null || this.disabled) return;
      this.since = performance.now();
      requestAnimationFrame(this.grow);
    },
    end() {
      this.since = null;
      this.held = 0;
    },
    grow() {
      if (this.since === null) return;
      this.held = Math.min((performance.now() - this.since) / (this.seconds * 1000), 1);
      if (this.held < 1) return requestAnimationFrame(this.grow);
      this.end();
      this.$emit("held");
    },
  },
  unmounted() {
    this.end();
  },
};
